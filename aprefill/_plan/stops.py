"""Which stop sequences the host is told, and which are applied here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._codecs import codec
from .._types import Support

if TYPE_CHECKING:
    from .._hosts.row import SupportRow


#: What a model may open a code fence with. A stop sequence that occurs in one of these is not for the host.
_LANGUAGES = (
    "bash c c# c++ cpp cs csharp css csv diff dockerfile elixir go golang graphql haskell html http ini java "
    "javascript js json json5 jsonc jsonl jsx kotlin latex lua makefile markdown md mermaid nginx perl php plaintext "
    "powershell proto protobuf py python r regex ruby rust scala scss sh shell sql svg swift text toml ts tsx txt "
    "typescript vue xml yaml yml zsh"
)


_OPENERS = "".join(f"```{name}\n" for name in _LANGUAGES.split())


def _may_send(sequence: str, row: SupportRow, known: str, support: Support) -> bool:
    """Whether the host may be told: not if it could take known text, or known and new text together, for a match.

    Where the echo was asked for, it may come in a fence or behind white space, which must not stop the host either.
    """
    if not row.sends_stop or (not row.blank_stop and sequence.isspace()):
        return False
    if _straddles(sequence, known):
        return False
    if not known or support is Support.EATS:
        return True
    if support is Support.EMULATED and (
        "`" in sequence or not sequence.isprintable() or sequence.isspace() or sequence.casefold() in _OPENERS
    ):
        return False
    if support is Support.EMULATED or row.whitespace_echo:
        # the echo may have other white space than known has
        sequence, known = "".join(sequence.split()), "".join(known.split())
        if _straddles(sequence, known):
            return False
    return sequence not in known


def _straddles(sequence: str, known: str) -> bool:
    return any(known.endswith(sequence[:n]) for n in range(1, len(sequence)))


def stops(
    wanted: tuple[str, ...], row: SupportRow, known: str, support: Support
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sequences that the host is told, and those that are applied here."""
    most = min((most for most in (row.max_stop, codec(row.codec).max_stop) if most is not None), default=None)
    told = tuple([s for s in wanted if _may_send(s, row, known, support)][:most])
    return told, tuple(s for s in wanted if s not in told)
