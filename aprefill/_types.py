"""Values that more than one layer uses: enums, `Usage`, and the base class of the values that the caller gets.

The values that the caller gets are frozen dataclasses with `as_dict()`, because web frameworks turn dataclasses into
JSON by themselves.
"""

from __future__ import annotations

from dataclasses import Field, dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class Support(StrEnum):
    """What a host does with an assistant prefill, by the four kinds of https://github.com/simonw/llm/issues/463."""

    #: Native support: the host continues the prefill, and its reply leaves the prefill out.
    EATS = "eats"
    #: Native support: the host continues the prefill, and its reply repeats the prefill first.
    ECHOES = "echoes"
    #: No native support: the prompt must ask the model to begin with the prefill.
    EMULATED = "emulated"
    #: The host refuses a prefill, and the prompt cannot ask for it either.
    UNSUPPORTED = "unsupported"


class Verdict(StrEnum):
    """What was found at the seam: the place where the prefill ends and the model's own text begins.

    The *known text* is the prefill and all text after it that has been yielded.
    """

    #: Not enough text has come yet to decide.
    UNDECIDED = "undecided"
    #: The model did not repeat the known text. Its text is joined to the known text.
    ABSENT = "absent"
    #: The model repeated the known text. The repetition was dropped.
    ECHOED = "echoed"
    #: The model repeated the known text inside a Markdown code fence. Repetition and fence were dropped.
    FENCED = "fenced"
    #: The model wrote a short introduction and then repeated the known text. Both were dropped.
    PREFACED = "prefaced"
    #: The model repeated only the end of the known text. The repetition was dropped.
    OVERLAPPED = "overlapped"
    #: The stream ended inside a possible repetition, which was dropped.
    TRUNCATED = "truncated"


class StopReason(StrEnum):
    """Why the model stopped, in the same words for every host. The host's word is `AttemptReport.raw_stop_reason`."""

    #: The model finished.
    END = "end"
    #: A stop sequence matched. `stop_sequence` is that sequence, if it is known.
    STOP_SEQUENCE = "stop_sequence"
    #: The token limit of the request was reached.
    MAX_TOKENS = "max_tokens"
    #: The model wants to call a tool.
    TOOL_USE = "tool_use"
    #: The provider's safety layer or the model refused to answer.
    REFUSAL = "refusal"
    #: The host paused a long-running turn. Send the turn back to continue.
    PAUSE = "pause"
    #: The model's context window is full.
    CONTEXT_WINDOW = "context_window"
    #: The caller ended the reply with `cancel()`.
    CANCELLED = "cancelled"
    #: The host gave a reason that this version does not know.
    OTHER = "other"


#: The reply reached a token limit, either of the request or of the model.
TOKEN_LIMIT_REASONS = frozenset({StopReason.MAX_TOKENS, StopReason.CONTEXT_WINDOW})


class Value:
    """Base class of the values that the caller gets. Each of them is a frozen dataclass.

    >>> Usage(input_tokens=7, output_tokens=5).as_dict()["output_tokens"]
    5
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as a dict for JSON. Unknown values are None, enums are strings, nested values are dicts."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.as_dict()
    return value.value if isinstance(value, Enum) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Value):
    """Token counts as reported by the host. None means that the host did not report the number.

    `input_tokens` counts the prompt tokens billed at the full rate. Hosts that report only a total put all prompt
    tokens there. Cached tokens are counted separately if the host does so. `output_tokens` includes reasoning and the
    repetition of an emulated prefill. `echo_tokens` estimates the tokens of that repetition from its share of the text.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    echo_tokens: int | None = None

    def __add__(self, other: Usage) -> Usage:
        def add(a: int | None, b: int | None) -> int | None:
            return b if a is None else a if b is None else a + b

        return Usage(
            input_tokens=add(self.input_tokens, other.input_tokens),
            output_tokens=add(self.output_tokens, other.output_tokens),
            cache_read_tokens=add(self.cache_read_tokens, other.cache_read_tokens),
            cache_write_tokens=add(self.cache_write_tokens, other.cache_write_tokens),
            reasoning_tokens=add(self.reasoning_tokens, other.reasoning_tokens),
            echo_tokens=add(self.echo_tokens, other.echo_tokens),
        )


def sum_of(counted: Iterable[Usage | None]) -> Usage | None:
    """Add up all usages that are known. Return None if none is known."""
    total: Usage | None = None
    for usage in counted:
        if usage is not None:
            total = usage if total is None else total + usage
    return total
