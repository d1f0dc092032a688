"""slicer.i18n: texts for the user pass through `tr`, which Slicer translates by the context of the source file.

`translating` puts a translation in place, so that a test can see which texts of a panel do not pass through here.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import slicer

_translations: list[Callable[[str, str], str]] = []
seen: list[tuple[str, str]] = []  # (context, text) of what was asked for


def translate(context: str, text: str) -> str:
    """The text in the application's language."""
    seen.append((context, text))
    return _translations[-1](context, text) if _translations else text


def tr(text: str) -> str:
    """As `translate`, in the context of the caller's file; a translation that lost a {placeholder} is not taken."""
    caller = inspect.currentframe().f_back
    translated = translate(getContext(caller.f_code.co_filename), text)
    if placeholders(text) != placeholders(translated):
        logging.warning("The translation of %r has other placeholders: %r", text, translated)
        return text
    return translated


def getContext(sourceFile: str) -> str:
    """The file's name, after its package's where it lies in one."""
    path = Path(sourceFile)
    inside = path.is_file() and (path.parent / "__init__.py").is_file()
    return f"{path.parent.name}.{path.stem}" if inside else path.stem


def placeholders(text: str) -> set[str]:
    """The names in single braces."""
    return set(re.findall(r"(?<!\{)\{([^{}]+)\}(?!\})", text))


@contextmanager
def translating(translation: Callable[[str, str], str]) -> Iterator[None]:
    """Within the block texts are what the function makes of (context, text)."""
    _translations.append(translation)
    try:
        yield
    finally:
        _translations.pop()


def install() -> None:
    """Set slicer.i18n."""
    module = ModuleType("slicer.i18n")
    module.tr, module.translate, module.getContext = tr, translate, getContext
    slicer.i18n = sys.modules["slicer.i18n"] = module
