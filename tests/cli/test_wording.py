"""The library's error messages, as the command line words them."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

import pytest

import aprefill
from aprefill import (
    AprefillError,
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
from aprefill._words import Words
from aprefill.cli._commands import run
from aprefill.cli._spelling import _OTHERS, _SAME, in_options

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def not_trusted() -> AprefillError:
    error = translate(ssl.SSLCertVerificationError("no"), stage="open", host="host", port=443)
    assert isinstance(error, ConnectFailed)
    return error


def errors() -> Iterator[AprefillError]:
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
    for model, support in (("openai:m", None), ("nobody:m", None), ("vllm:", None), ("demo:eats", "x")):
        with pytest.raises(UsageError) as caught:
            aprefill.stream("x", model=model, support=support)
        yield caught.value


def test_no_message_speaks_of_a_programs_arguments() -> None:
    """No message on the command line names an argument of the Python functions."""
    found = list(errors())
    assert len(found) > 5
    for error in found:
        message = in_options(error)
        assert not re.search(r"\w=|base_url|text_so_far|max_tokens|\(\)", message), message


def test_what_asks_for_other_arguments_asks_for_an_option() -> None:
    """Messages about `emulate=`, `absent=` and `extra=` name the command line's option instead."""
    assert in_options(PrefillIgnored("m")).endswith(
        "; pass --absent join to put the prefill before the reply, or pass --absent retry to ask once more"
    )
    assert in_options(PrefillIgnored("m", strict=True)).endswith(
        "; leave --strict out to put the prefill before the reply"
    )
    for off, option in (("strict=True", "--strict"), ("emulate=False", "--no-emulate")):
        assert f"; leave {option} out to ask for the prefill in the prompt, " in in_options(
            PrefillRefused("m", off=off)
        )
    assert in_options(limit_inside_the_echo()).endswith("; raise --max-tokens")


def test_plain_http_and_certificates_are_told_in_options() -> None:
    """Messages about plain http and certificates name the command line's option or variable, not a client."""
    with pytest.raises(UsageError) as caught:
        check_url("http://vllm:8000/v1")
    assert "or pass --allow-http if you trust the network" in in_options(caught.value)
    assert in_options(not_trusted()).endswith(
        "set SSL_CERT_FILE to the certificate file of the authority that signed it"
    )


def test_values_and_quotations_stay() -> None:
    """A value is shown unchanged after its option. Braces in a caller's or host's text are not replaced."""
    error = UsageError("model='x' names no known provider {base_url}", Words("leave {api} out"))
    assert in_options(error) == "model='x' names no known provider {base_url}; leave --api out"
    given = UsageError(Words("{model=name} names no known provider", name="'{api}'"))
    assert (str(given), in_options(given)) == (
        "model='{api}' names no known provider",
        "--model '{api}' names no known provider",
    )


def test_a_way_that_the_command_line_has_not_is_left_out() -> None:
    """A remedy without an option is left out, and the others are kept. The problem is always shown."""
    known = UsageError("no key", Words("set KEY", "pass {api_key}"))
    assert (str(known), in_options(known)) == ("no key; set KEY, or pass api_key=", "no key; set KEY")
    unknown = UsageError(Words("{api_key} is empty"), Words("pass {client}"))
    assert (str(unknown), in_options(unknown)) == ("api_key= is empty; pass client=", "api_key= is empty")


def test_the_options_are_those_of_the_command() -> None:
    """The arguments that messages turn into options are exactly the options of `run` that stand for an argument."""
    options = {max(param.opts, key=len) for param in run.params if param.param_type_name == "option"}
    arguments = {f"--{name.replace('_', '-')}" for name in _SAME}
    flags = {word for word in _OTHERS.values() if word.startswith("--")}
    only_here = {"--hide-prefill", "--json", "--timing"}
    assert sorted([*arguments, *flags, *only_here]) == sorted(options)
