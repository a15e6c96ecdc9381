"""The command line: it prints one reply, or the support table. Needs the extra `cli`."""

from ._main import main

__all__ = ("main",)
