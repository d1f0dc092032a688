"""Documents: headings, facts, tables and pictures, written as one self-contained HTML file or as Markdown.

The HTML has no scripts and asks for nothing from outside: pictures are inside. It follows the reader's choice of a
light or dark screen, fits a phone and prints on paper.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from .tables import Cell, Row, Table


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Headline:
    """A few figures that come first: value and what it is."""

    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Facts:
    """Names and what there is to say of each."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Notes:
    """Sentences that the reader must not miss."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Tables:
    """Tables, side by side where there is room; `caption` says what their figures are."""

    tables: tuple[Table, ...]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG.

    Attributes:
        name: of its file, without the ending.
        alt: what it shows, for those who cannot see it.
        caption: below it.
        light: the file's bytes.
        dark: those of the same picture for dark screens, if it is another one.
    """

    name: str
    alt: str
    caption: str
    light: bytes
    dark: bytes | None = None


@dataclass(frozen=True)
class Pictures:
    """Pictures in columns where there is room."""

    columns: tuple[tuple[Picture, ...], ...]


Block = Text | Headline | Facts | Notes | Tables | Pictures


@dataclass(frozen=True)
class Section:
    """Blocks under a heading; "" for none."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """What is written.

    Attributes:
        title: of the whole.
        subtitle: one line below it.
        sections: in order.
        footer: lines at the end.
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    footer: tuple[str, ...] = ()

    def pictures(self) -> Iterator[Picture]:
        """All pictures, in order."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, Pictures):
                    yield from (picture for column in block.columns for picture in column)


def to_html(document: Document) -> str:
    """The document as one HTML file."""
    parts = [f"<header><h1>{escape(document.title)}</h1><p>{escape(document.subtitle)}</p></header>"]
    for section in document.sections:
        heading = f"<h2>{escape(section.title)}</h2>" if section.title else ""
        parts.append(f"<section>{heading}{''.join(_html(block) for block in section.blocks)}</section>")
    parts.append("<footer>" + "".join(f"<p>{escape(line)}</p>" for line in document.footer) + "</footer>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(document.title)}</title>'
        f"<style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def to_markdown(document: Document) -> str:
    """The document as Markdown; its pictures are files beside it, `name`.png."""
    parts = [f"# {_plain(document.title)}", _plain(document.subtitle)]
    for section in document.sections:
        parts += [f"## {_plain(section.title)}"] if section.title else []
        parts += [text for block in section.blocks for text in _markdown(block)]
    parts += ["---", *(_plain(line) for line in document.footer)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _html(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Headline):
        items = "".join(
            f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in block.figures
        )
        return f'<div class="headline">{items}</div>'
    if isinstance(block, Facts):
        return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in block.pairs) + "</dl>"
    if isinstance(block, Notes):
        return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in block.sentences) + "</ul>"
    if isinstance(block, Tables):
        caption = f'<p class="caption">{escape(block.caption)}</p>' if block.caption else ""
        kind = "beside" if len(block.tables) > 1 else "alone"
        return f'<div class="{kind}">{"".join(_html_table(table) for table in block.tables)}</div>{caption}'
    columns = ("<div>" + "".join(_html_picture(picture) for picture in column) + "</div>" for column in block.columns)
    kind = "beside" if len(block.columns) > 1 else "alone"
    return f'<div class="{kind}">{"".join(columns)}</div>'


def _html_picture(picture: Picture) -> str:
    dark = ""
    if picture.dark is not None:
        dark = f'<source media="(prefers-color-scheme: dark)" srcset="{_data(picture.dark)}">'
    image = f'<img src="{_data(picture.light)}" alt="{escape(picture.alt)}">'
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return f"<figure><picture>{dark}{image}</picture>{caption}</figure>"


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _html_table(table: Table) -> str:
    grouped = any(group.title for group in table.groups)
    span = ' rowspan="2"' if grouped else ""
    first = f'<th{span} scope="col">{escape(table.title)}</th>'
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for group in table.groups for head in group.heads)
    if grouped:
        groups = "".join(f'<th colspan="{len(g.heads)}" scope="colgroup">{escape(g.title)}</th>' for g in table.groups)
        lines = f"<tr>{first}{groups}</tr><tr>{heads}</tr>"
    else:
        lines = f"<tr>{first}{heads}</tr>"
    rows = "".join(_html_row(row) for row in table.rows)
    return f'<div class="table"><table><thead>{lines}</thead><tbody>{rows}</tbody></table></div>'


def _html_row(row: Row) -> str:
    color = "" if row.color is None else f'<i style="background:rgb({",".join(str(int(c)) for c in row.color)})"></i>'
    cells = "".join(_html_cell(cell) for cell in row.cells)
    return f'<tr><th scope="row">{color}{escape(row.name)}</th>{cells}</tr>'


def _html_cell(cell: Cell) -> str:
    kind = f' class="{escape(cell.style)}"' if cell.style else ""
    return f"<td{kind}>{escape(cell.text)}</td>"


def _markdown(block: Block) -> list[str]:
    if isinstance(block, Text):
        return [_plain(block.text)]
    if isinstance(block, Headline):
        return ["\n".join(f"- **{_plain(value)}** {_plain(what)}" for value, what in block.figures)]
    if isinstance(block, Facts):
        return [_markdown_table(("", ""), [(_plain(a), _plain(b)) for a, b in block.pairs], left=2)]
    if isinstance(block, Notes):
        return ["\n".join(f"- {_plain(line)}" for line in block.sentences)]
    if isinstance(block, Tables):
        return [*(_markdown_of(table) for table in block.tables), _plain(block.caption)]
    found = []
    for column in block.columns:
        for picture in column:
            found += [f"![{_plain(picture.alt)}]({picture.name}.png)", _plain(picture.caption)]
    return found


def _markdown_of(table: Table) -> str:
    heads = [f"{group.title}: {head}" if group.title else head for group in table.groups for head in group.heads]
    rows = [(_plain(row.name), *(_marked(cell) for cell in row.cells)) for row in table.rows]
    return _markdown_table((_plain(table.title), *(_plain(head) for head in heads)), rows, left=1)


def _marked(cell: Cell) -> str:
    return f"**{_plain(cell.text)}**" if cell.style == "best" and cell.text else _plain(cell.text)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def _plain(text: str) -> str:
    """Text without meaning for Markdown, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


_STYLE = """
:root{--ink:#1b1f24;--faint:#5b6570;--rule:#d5dae0;--back:#fff;--panel:#f5f7f9;--warn:#8a4b00;--warnback:#fff6e8}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaef;--faint:#9aa5b1;--rule:#38414b;--back:#15181c;--panel:#1d2126;
--warn:#ffc47a;--warnback:#2c2416}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--back);color:var(--ink);font:1rem/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","Noto Sans","Liberation Sans",Arial,sans-serif;font-variant-numeric:tabular-nums}
main{max-width:66rem;margin:0 auto;padding:2.5rem 1.25rem 3rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.3;margin:2.75rem 0 .8rem;padding-bottom:.3rem;border-bottom:1px solid var(--rule)}
p{margin:.5rem 0;max-width:44rem}
header p,.caption,figcaption,footer{color:var(--faint)}
.caption,figcaption,footer{font-size:.875rem;line-height:1.45}
.caption{margin-top:.6rem}
.headline{display:flex;flex-wrap:wrap;gap:.75rem;margin:1.5rem 0 .5rem}
.headline div{flex:1 1 11rem;background:var(--panel);border:1px solid var(--rule);border-radius:.5rem;
padding:.7rem .9rem}
.headline b{display:block;font-size:1.3rem;line-height:1.25;font-weight:600;white-space:nowrap}
.headline span{font-size:.85rem;line-height:1.35;color:var(--faint);display:block;margin-top:.15rem}
.notes{margin:1rem 0;padding:.8rem 1rem .8rem 2rem;max-width:none;background:var(--warnback);
border-left:4px solid var(--warn);border-radius:.25rem}
.notes li{margin:.25rem 0;max-width:48rem}
dl{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.35rem 1.5rem;margin:0}
dt{color:var(--faint)}
dd{margin:0;overflow-wrap:anywhere}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1.5rem 2rem;
align-items:start}
.table{overflow-x:auto}
dl+*,.caption+*{margin-top:1.75rem}
table{border-collapse:collapse;font-size:.9rem;line-height:1.35}
.beside table{width:100%;font-size:.875rem}
th,td{padding:.32rem .7rem;text-align:right;white-space:nowrap;font-weight:400}
th:first-child,tr>th[rowspan]{text-align:left;padding-left:0}
td:last-child,thead tr:last-child th:last-child{padding-right:.2rem}
.beside th,.beside td{padding-left:.4rem;padding-right:.4rem}
.beside th:first-child{padding-left:0}
thead th{font-weight:600;vertical-align:bottom}
thead tr:last-child th,thead th[rowspan]{border-bottom:1px solid var(--ink)}
th[scope=colgroup]{text-align:center}
tbody tr{border-bottom:1px solid var(--rule)}
thead tr:first-child:not(:last-child) th{padding-bottom:.1rem}
tbody th:first-child{white-space:normal;min-width:7rem;padding-left:1.25em;text-indent:-1.25em}
.beside tbody th:first-child{padding-left:1.25em}
tbody tr:last-child{border-bottom:1px solid var(--ink)}
.best{font-weight:700}
.odd{color:var(--warn)}
i{display:inline-block;width:.75em;height:.75em;margin-right:.5em;border-radius:2px;outline:1px solid #0003;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
figure{margin:0 0 1.25rem}
figure img{display:block;width:100%;height:auto;border-radius:.25rem}
.alone figure{max-width:46rem}
figcaption{margin-top:.4rem;max-width:44rem}
footer{margin-top:3rem;padding-top:.6rem;border-top:1px solid var(--rule)}
footer p{margin:.15rem 0}
@media (max-width:34rem){main{padding:1.25rem 1rem 2rem}h1{font-size:1.5rem}
dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.6rem}th,td{padding:.32rem .45rem}
tbody th:first-child{min-width:6.5rem}}
@media print{@page{margin:16mm}body{font-size:10pt}main{max-width:none;padding:0}h2{break-after:avoid}
figure,tr,.headline,.notes{break-inside:avoid}.table{overflow:visible}
.beside{grid-template-columns:1fr 1fr;gap:1rem}.notes{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
""".strip()
__all__ = [
    "Document",
    "Facts",
    "Headline",
    "Notes",
    "Picture",
    "Pictures",
    "Section",
    "Tables",
    "Text",
    "to_html",
    "to_markdown",
]
