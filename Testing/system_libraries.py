#!/usr/bin/env python3
"""The system libraries that the host and panel tests need: Qt's, and a software renderer for offscreen views.

    python Testing/system_libraries.py --check      # says what is missing; exit code 1 where something is
    python Testing/system_libraries.py --install    # the same, after installing it where that is possible

Silent where nothing is missing. Only the standard library is used, and only Linux is looked at: the wheels for macOS
and Windows bring or find all they need.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Library that a wheel (or the renderer) loads → Debian package that has it. The wheels of VTK and Slicer's core link
# only against libc and libstdc++; VTK opens EGL when it draws, PySide6 links against the rest. What these packages
# depend on themselves (X11, xcb, freetype, brotli, LLVM) comes with them.
LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libdbus-1.so.3": "libdbus-1-3",
    "libfontconfig.so.1": "libfontconfig1",
    "libfreetype.so.6": "libfreetype6",
    "libX11.so.6": "libx11-6",
    "libxcb.so.1": "libxcb1",
    "libbrotlidec.so.1": "libbrotli1",
    "libzstd.so.1": "libzstd1",
    "libz.so.1": "zlib1g",
    "libstdc++.so.6": "libstdc++6",
}
RENDERER = "libgl1-mesa-dri"  # Mesa's drivers, llvmpipe among them: what draws where there is no graphics card
FONTS = "fonts-dejavu-core"  # Qt brings no fonts, and without any all texts are boxes

FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
EGL_PLATFORM_SURFACELESS_MESA = 0x31DD


def main(words: list[str] | None = None) -> int:
    """Exit code 0 where everything is there (in the end), else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    do = parser.add_mutually_exclusive_group(required=True)
    do.add_argument("--check", action="store_true", help="say what is missing")
    do.add_argument("--install", action="store_true", help="install what is missing (Debian and Ubuntu, as root)")
    arguments = parser.parse_args(words)
    if not sys.platform.startswith("linux"):
        return 0

    absent = missing()
    if absent and arguments.install and can_install():
        sys.stderr.write(f"Installing {' '.join(packages(absent))}\n")
        sys.stderr.flush()
        install(packages(absent))
        # A fresh process: this one has looked once, and a renderer that was absent then stays so
        return subprocess.run([sys.executable, __file__, "--check"], check=False).returncode
    if absent:
        sys.stderr.write(report(absent))
    return 1 if absent else 0


def missing() -> dict[str, str]:
    """What is not there → the Debian package that has it."""
    absent = {name: package for name, package in LIBRARIES.items() if not loads(name)}
    if "libEGL.so.1" in absent or not draws():
        absent["a driver that draws without a screen"] = RENDERER
    if not has_fonts():
        absent["fonts"] = FONTS
    return absent


def loads(name: str) -> bool:
    """Whether the dynamic linker finds the library `name` and all that it needs."""
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def draws() -> bool:
    """Whether EGL starts without a screen, as VTK needs it. False where libEGL is absent."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    return surfaceless(egl) or device(egl)


def surfaceless(egl: ctypes.CDLL) -> bool:
    """Whether Mesa gives a display that belongs to no window system."""
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    address = egl.eglGetProcAddress(b"eglGetPlatformDisplayEXT")
    if not address:
        return False
    # EGLDisplay eglGetPlatformDisplayEXT(EGLenum platform, void* native_display, const EGLint* attributes)
    kind = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)
    return starts(egl, kind(address)(EGL_PLATFORM_SURFACELESS_MESA, None, None))


def device(egl: ctypes.CDLL) -> bool:
    """Whether the default display starts: a graphics card's own driver."""
    egl.eglGetDisplay.restype = ctypes.c_void_p
    egl.eglGetDisplay.argtypes = [ctypes.c_void_p]
    return starts(egl, egl.eglGetDisplay(None))


def starts(egl: ctypes.CDLL, display: int | None) -> bool:
    """Whether the driver behind `display` comes up."""
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    egl.eglTerminate.argtypes = [ctypes.c_void_p]
    if not display or not egl.eglInitialize(display, None, None):
        return False
    egl.eglTerminate(display)
    return True


def has_fonts() -> bool:
    """Whether there is any font that Qt could take."""
    folders = (Path(folder).expanduser() for folder in FONT_FOLDERS)
    return any(path.suffix.lower() in {".ttf", ".otf", ".ttc"} for folder in folders for path in folder.rglob("*"))


def packages(absent: dict[str, str]) -> list[str]:
    """Debian packages to install, each once."""
    return sorted(set(absent.values()))


def can_install() -> bool:
    """Whether this is a Debian or Ubuntu on which we are root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(names: list[str]) -> None:
    """By apt, with its lists read anew only where the packages are not found; what it says goes to stderr."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-o", "DPkg::Lock::Timeout=60", "install", "-qq", "-y", "--no-install-recommends", *names]
    for before in ([], ["apt-get", "update", "-qq"]):
        if before:
            subprocess.run(before, env=environment, stdout=sys.stderr, check=False)
        if subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode == 0:
            return


def report(absent: dict[str, str]) -> str:
    """What is missing and the command that installs it."""
    lines = [f"  {name:<40}{package}" for name, package in absent.items()]
    advice = f"sudo apt-get install -y --no-install-recommends {' '.join(packages(absent))}"
    head = "The host and panel tests need system libraries that are not here (and the Debian package that has each):"
    return "\n".join([head, *lines, f"On Debian and Ubuntu: {advice}", ""])


if __name__ == "__main__":
    sys.exit(main())
