"""Decides which stop sequences are sent to the host, and which are applied here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._codecs import codec
from .._types import Support

if TYPE_CHECKING:
    from .._hosts.row import SupportRow


#: Languages that a model may write after the opening of a code fence. A stop sequence that occurs in such an opening is
#: not sent to the host.
_LANGUAGES = (
    "bash c c# c++ cpp cs csharp css csv diff dockerfile elixir go golang graphql haskell html http ini java "
    "javascript js json json5 jsonc jsonl jsx kotlin latex lua makefile markdown md mermaid nginx perl php plaintext "
    "powershell proto protobuf py python r regex ruby rust scala scss sh shell sql svg swift text toml ts tsx txt "
    "typescript vue xml yaml yml zsh"
)


_OPENERS = "".join(f"```{name}\n" for name in _LANGUAGES.split())


def _may_send(sequence: str, row: SupportRow, known: str, support: Support) -> bool:
    """Whether the sequence may be sent to the host. Not if it could match known text, or known and new text together.

    The echo that the prompt asks for may come inside a fence or with different white space. That must not make the host
    stop either.
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
        # The white space of the echo may differ from that of the known text.
        sequence, known = "".join(sequence.split()), "".join(known.split())
        if _straddles(sequence, known):
            return False
    return sequence not in known


def _straddles(sequence: str, known: str) -> bool:
    return any(known.endswith(sequence[:n]) for n in range(1, len(sequence)))


def stops(
    wanted: tuple[str, ...], row: SupportRow, known: str, support: Support
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sequences that are sent to the host, and those that are applied here."""
    most = min((most for most in (row.max_stop, codec(row.codec).max_stop) if most is not None), default=None)
    told = tuple([s for s in wanted if _may_send(s, row, known, support)][:most])
    return told, tuple(s for s in wanted if s not in told)
