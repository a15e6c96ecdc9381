"""The command line: one reply to the terminal, and the support table. Needs the extra `cli`."""

from ._main import main

__all__ = ("main",)
