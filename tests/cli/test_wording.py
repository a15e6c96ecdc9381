"""The library's messages in the command line's words."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import aprefill
from aprefill import (
    ConnectFailed,
    PrefillIgnored,
    PrefillRefused,
    ProtocolError,
    Stalled,
    StatusError,
    Truncated,
    UsageError,
)
from aprefill._deltas import FinishDelta, ModelInput, TextDelta
from aprefill._engine.splice import Splice
from aprefill._engine.transcript import Transcript
from aprefill._errors import _REMEDIES
from aprefill._hosts.table import builtin_table
from aprefill._hosts.target import Target, check_url
from aprefill._plan.step import AttemptPlan
from aprefill._seam.plan import SeamPlan
from aprefill._transports._foreign import translate
from aprefill._types import StopReason, Support
from aprefill.cli._wording import _PHRASES, in_options

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_each_phrase_is_one_that_the_library_writes() -> None:
    """A message that is reworded there takes its phrase here along."""
    paths = [path for path in Path(aprefill.__file__).parent.rglob("*.py") if path.parent.name != "cli"]
    source = "".join(path.read_text("utf-8") for path in sorted(paths))
    assert [phrase for phrase, _ in _PHRASES if phrase not in source] == []


def limit_inside_the_echo() -> Truncated:
    row = builtin_table().row("demo", "eats")
    step = AttemptPlan(
        target=Target(row, "m", base_url="demo:", keep=False),
        transport=lambda: None,
        row=row,
        model_input=ModelInput(model="m", messages=()),
        mode="emulated",
        support=Support.EMULATED,
        seam=SeamPlan("Dear Ann, ", {}),
        stop=(),
        show_when="decided",
    )
    splice = Splice(step, Transcript("Dear Ann, "), lead="", coalesce=False)
    splice.take([TextDelta("Dear"), FinishDelta(StopReason.MAX_TOKENS, "length")])
    with pytest.raises(Truncated) as caught:
        splice.close(cut=False)
    return caught.value


def not_trusted() -> Exception:
    error = translate(ssl.SSLCertVerificationError("no"), stage="open", host="host", port=443)
    assert isinstance(error, ConnectFailed)
    return error


def errors() -> Iterator[Exception]:
    yield ConnectFailed("host", "refused")
    yield not_trusted()
    yield PrefillRefused("m", known_as="support table: emulated")
    yield from (PrefillRefused("m", status=400, quote="no", why=why) for why in _REMEDIES)
    yield PrefillIgnored("m")
    yield PrefillIgnored("m", strict=True)
    yield from (PrefillRefused("m", off=off) for off in ("strict=True", "emulate=False"))
    yield limit_inside_the_echo()
    yield ProtocolError("the answer is text/html")
    yield Stalled("first_token_s", 600)
    yield Truncated("no end")
    yield from (StatusError(status) for status in (400, 401, 404, 429, 500))
    for url in ("x", "http://example.com", "https://a:b@example.com", "https://example.com?x"):
        with pytest.raises(UsageError) as caught:
            check_url(url)
        yield caught.value
    for model, support in (("openai:m", None), ("nobody:m", None), ("demo:eats", "x")):
        with pytest.raises(UsageError) as caught:
            aprefill.stream("x", model=model, support=support)
        yield caught.value


def test_no_message_speaks_of_a_programs_arguments() -> None:
    """What each says to do can be done on a command line."""
    for error in errors():
        message = in_options(str(error))
        assert not re.search(r"\w=(?!['\"])|base_url|text_so_far|max_tokens|\(\)", message), message


def test_what_asks_for_other_arguments_asks_for_an_option() -> None:
    """Where a program has `emulate=`, `absent=` and `extra=`, the command line has options of its own."""
    assert in_options(str(PrefillIgnored("m"))).endswith(
        "; leave --absent out to have it put in front, or pass --absent retry to ask once more"
    )
    assert in_options(str(PrefillIgnored("m", strict=True))).endswith("; leave --strict out to have it put in front")
    for off, option in (("strict=True", "--strict"), ("emulate=False", "--no-emulate")):
        assert f"Leave {option} out to have it asked for in the prompt." in in_options(
            str(PrefillRefused("m", off=off))
        )
    assert "; raise --max-tokens; nothing new came" in in_options(str(limit_inside_the_echo()))


def test_plain_http_and_certificates_are_told_in_options() -> None:
    """The option that takes plain http is named, and nobody is told to pass a client."""
    with pytest.raises(UsageError) as caught:
        check_url("http://vllm:8000/v1")
    assert "or pass --allow-http if you trust the network" in in_options(str(caught.value))
    assert in_options(str(not_trusted())).endswith("set SSL_CERT_FILE to the file of the authority that has signed it")


def test_values_and_quotations_stay() -> None:
    """An argument shown with its value is told as it was given."""
    assert in_options("model='x' names no known provider") == "model='x' names no known provider"
