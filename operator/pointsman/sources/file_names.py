"""File names for people."""

from __future__ import annotations

import os


def shown(path: str | os.PathLike[str]) -> str:
    r"""Return a file name as it can be printed: bytes that are not UTF-8 are written as ``\xNN``.

    Linux allows any bytes in a name; Python holds those that are not UTF-8 as surrogates, which cannot be written out.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
