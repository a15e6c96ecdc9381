"""The plan: how one request is sent to the host of one row of the support table, without a network.

The seam is the code that joins the prefill and the model's text.
A dialect is the form of a request that makes a host continue a prefill: a turn, a flag or a field.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from unittest.mock import ANY

import pytest

from aprefill._codecs import codec
from aprefill._deltas import ModelInput
from aprefill._errors import PrefillRefused, UsageError
from aprefill._hosts.target import Target
from aprefill._plan.step import AttemptPlan
from aprefill._seam.plan import SeamPlan
from aprefill._seam.seam import Seam
from aprefill._types import Support, Verdict

from ..support.planning import EATS, ECHOES, USER, acme, asked, known, no_transport, plan_first, step


def rules(planned: AttemptPlan) -> tuple[str, bool, str]:
    """Return the rules for the seam: the echo, whether its white space may differ, and what was stripped."""
    told = dict(planned.seam.rules)
    seen = told.pop("echo", "maybe"), told.pop("whitespace", False), told.pop("stripped", "")
    assert told == {}
    return seen


# --- a whole plan -----------------------------------------------------------------------------------------------


def test_a_plan_whole_with_a_prefill() -> None:
    """With a prefill, every argument arrives in the model input, and the plan says how the reply is joined."""
    row = acme('dialect = "prefix"\nbody_fields = { a = 1 }\ntoken_field = "max_completion_tokens"\nmax_stop = 1')
    planned = step(
        row,
        prefill='["',
        system="be brief",
        max_tokens=7,
        stop=["x", "y"],
        temperature=0.5,
        thinking={"type": "enabled"},
        tools=[{"name": "f"}],
        response_format={"type": "json_object"},
        extra={"seed": 1},
    )
    assert planned == AttemptPlan(
        target=planned.target,
        transport=no_transport,
        row=row,
        model_input=ModelInput(
            model="m",
            messages=(USER, {"role": "assistant", "content": '["', "prefix": True}),
            system="be brief",
            max_tokens=7,
            stop=("x",),
            temperature=0.5,
            thinking={"type": "enabled"},
            tools=({"name": "f"},),
            response_format={"type": "json_object"},
            token_field="max_completion_tokens",
            fields={"a": 1},
            extra={"seed": 1},
        ),
        mode="native",
        support=Support.EATS,
        seam=SeamPlan('["', {"echo": "never", "stripped": ""}),
        stop=("y",),
        show_when="accepted",
        sends_prefill=True,
        absent="join",
    )


@pytest.mark.parametrize("support", ["eats", "echoes", "emulated", "unsupported"])
def test_a_plan_whole_without_a_prefill(support: str) -> None:
    """Without a prefill there is no turn, no dialect field and no echo to look for, whatever the host's support."""
    row = acme('dialect = "prefix"\nbody_fields = { a = 1 }\nprefill_base_url = "https://acme.example/b"', support)
    assert step(row, stop=["x"], extra={"seed": 1}) == AttemptPlan(
        target=Target(row, "m", base_url=row.base_url, keep=False),
        transport=no_transport,
        row=row,
        model_input=ModelInput(model="m", messages=(USER,), stop=("x",), extra={"seed": 1}),
        mode="none",
        support=Support(support),
        seam=SeamPlan("", {"echo": "never"}),
        stop=(),
        show_when="accepted",
        sends_prefill=False,
        absent="join",
    )


# --- conflicts --------------------------------------------------------------------------------------------------

#: Each setting switched on, in several ways.
ON: dict[str, list[dict[str, Any]]] = {
    "thinking": [
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        {"thinking": {"type": "adaptive"}},
        {"extra": {"thinking": {"type": "enabled"}}},
    ],
    "tools": [{"tools": [{"name": "f"}]}, {"extra": {"tools": [{"name": "f"}]}}],
    "tool_choice": [
        {"extra": {"tool_choice": "required"}},
        {"extra": {"tool_choice": "any"}},
        {"extra": {"tool_choice": {"type": "any"}}},
        {"extra": {"tool_choice": {"type": "tool", "name": "f"}}},
    ],
    "response_format": [
        {"response_format": {"type": "json_object"}},
        {"extra": {"response_format": {"type": "json_object"}}},
    ],
}
OFF: dict[str, list[dict[str, Any]]] = {
    "thinking": [
        {},
        {"thinking": {"type": "disabled"}},
        {"extra": {"thinking": {"type": "disabled"}}},
        {"extra": {"thinking": None}},
    ],
    "tools": [{}, {"tools": []}, {"extra": {"tools": []}}],
    "tool_choice": [
        {},
        {"extra": {"tool_choice": None}},
        {"extra": {"tool_choice": "auto"}},
        {"extra": {"tool_choice": "none"}},
        {"extra": {"tool_choice": {"type": "auto"}}},
        {"extra": {"tool_choice": {"type": "none"}}},
    ],
    "response_format": [{}, {"extra": {"response_format": None}}],
}


def cases(of: dict[str, list[dict[str, Any]]]) -> list[Any]:
    return [
        pytest.param(setting, options, id=f"{setting}-{n}")
        for setting, all_ in of.items()
        for n, options in enumerate(all_)
    ]


@pytest.mark.parametrize(("setting", "options"), cases(ON))
def test_what_breaks_a_prefill_is_an_error(setting: str, options: dict[str, Any]) -> None:
    """A setting that breaks the prefill on this host raises a `UsageError` that names both, before anything is sent."""
    with pytest.raises(UsageError, match=rf"acme cannot combine a native prefill with {setting}; switch .* off"):
        step(acme(f'conflicts = {{ {setting} = "breaks" }}'), prefill="[", **options)


@pytest.mark.parametrize(("setting", "options"), cases(ON))
def test_what_may_break_a_prefill_is_asked_for_in_the_prompt(setting: str, options: dict[str, Any]) -> None:
    """With an "unknown" conflict the prefill is emulated.

    Conflicts of other settings, and any conflict without a prefill, do not count.
    """
    others = ", ".join(f'{name} = "breaks"' for name in ON if name != setting)
    assert step(acme(f'conflicts = {{ {setting} = "unknown" }}'), prefill="[", **options).mode == "emulated"
    assert step(acme(f"conflicts = {{ {others} }}"), prefill="[", **options).mode == "native"
    assert step(acme(f'conflicts = {{ {setting} = "breaks" }}'), **options).mode == "none"


@pytest.mark.parametrize(("setting", "options"), cases(OFF))
def test_what_is_off_breaks_nothing(setting: str, options: dict[str, Any]) -> None:
    """Disabled thinking, no tools and a tool choice that forces none are no conflicts."""
    assert step(acme(f'conflicts = {{ {setting} = "breaks" }}'), prefill="[", **options).mode == "native"


@pytest.mark.parametrize(
    ("model", "breaks"),
    [
        ("anthropic:claude-haiku-4-5", {"thinking", "tool_choice", "response_format"}),
        ("openrouter:anthropic/claude-haiku-4.5", {"thinking", "tool_choice", "response_format"}),
        ("vllm:m", {"thinking", "tool_choice", "response_format"}),
        ("deepseek:deepseek-chat", {"thinking"}),
        ("deepseek:deepseek-reasoner", set()),
        ("moonshot:kimi-k2.5", {"thinking"}),
        ("dashscope:qwen-plus", {"thinking"}),
        ("mistral:mistral-small-latest", set()),
    ],
)
def test_conflicts_of_known_hosts(model: str, breaks: set[str]) -> None:
    """For each named host, exactly the conflicts of the table are refused."""
    refused = set()
    for setting, ways in ON.items():
        for options in ways:
            with suppress(UsageError):
                step(known(model), prefill="[", **options)
                continue
            refused.add(setting)
    assert refused == breaks


def test_a_callers_word_leaves_the_conflicts() -> None:
    """`support=` does not remove conflicts.

    It says that the host takes a prefill, but not that it takes one together with everything.
    """
    with pytest.raises(UsageError, match="with thinking"):
        step(known("anthropic:claude-opus-4-6"), prefill="[", support="eats", thinking={"type": "adaptive"})


# --- fields of the body -----------------------------------------------------------------------------------------

FIELDS = [
    pytest.param("", "[", {}, {}, id="nothing"),
    pytest.param("", "[", {"n": 1, "top_k": None}, {"n": 1, "top_k": None}, id="the-callers"),
    pytest.param("body_fields = { a = 1, b = 2 }", "[", {}, {"a": 1, "b": 2}, id="the-dialects"),
    pytest.param("body_fields = { a = 1, b = 2 }", "", {"c": 3}, {"c": 3}, id="the-dialects-go-with-a-prefill-only"),
    pytest.param("body_fields = { a = 1, b = 2 }", "[", {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}, id="extra-wins"),
    pytest.param("body_fields = { a = 1 }", "[", {"a": None}, {"a": None}, id="extra-removes"),
    pytest.param('dialect = "continue_final_message"', "[", {}, {"continue_final_message": True}, id="the-switch"),
    pytest.param("asks_usage = false", "[", {}, {"stream_options": None}, id="no-usage-asked"),
    pytest.param("asks_usage = false", "", {}, {"stream_options": None}, id="no-usage-asked-without-a-prefill"),
    pytest.param(
        "asks_usage = false\nbody_fields = { stream_options = 1 }", "[", {}, {"stream_options": 1}, id="dialect-wins"
    ),
    pytest.param("asks_usage = false", "[", {"stream_options": 2}, {"stream_options": 2}, id="extra-wins-over-usage"),
]


@pytest.mark.parametrize(("keys", "prefill", "extra", "fields"), FIELDS)
def test_fields(keys: str, prefill: str, extra: dict[str, Any], fields: dict[str, Any]) -> None:
    """The dialect's fields replace the host's, and the caller's `extra` replaces both. None removes a field."""
    given = dict(extra)
    body = codec("openai_chat").encode(step(acme(keys), prefill=prefill, extra=extra).model_input)
    always = {"model": "m", "messages": ANY, "stream": True, "stream_options": {"include_usage": True}}
    expected = {name: value for name, value in {**always, **fields}.items() if value is not None}
    assert body == expected
    assert extra == given


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("anthropic:claude-haiku-4-5", None, (4096, "max_tokens")),
        ("anthropic:claude-haiku-4-5", 1, (1, "max_tokens")),
        ("mistral:mistral-small-latest", None, (None, "max_tokens")),
        ("mistral:mistral-small-latest", 9, (9, "max_tokens")),
    ],
)
@pytest.mark.parametrize("prefill", ["[", ""])
def test_max_tokens(model: str, prefill: str, given: int | None, expected: tuple[int | None, str]) -> None:
    """The row's `max_tokens` is sent if the caller gives none and the API demands one."""
    call = step(known(model), prefill=prefill, max_tokens=given).model_input
    assert (call.max_tokens, call.token_field) == expected


def test_openai_counts_under_another_name() -> None:
    """OpenAI itself gets `max_completion_tokens`."""
    call = step(known("openai:gpt-4o"), max_tokens=5).model_input
    assert (call.max_tokens, call.token_field) == (5, "max_completion_tokens")


# --- how the reply is joined ------------------------------------------------------------------------------------

SPLICES = [
    # keys, support, prefill, (echo, white space may differ, stripped), a turn is sent
    pytest.param("", EATS, "a ", ("never", False, ""), True, id="eats"),
    pytest.param('whitespace = "strip"', EATS, "a \n", ("never", False, " \n"), True, id="eats-stripped"),
    pytest.param('whitespace = "strip"', EATS, " \n", ("never", False, " \n"), False, id="eats-white-space-only"),
    pytest.param('whitespace = "keep"', EATS, " \n", ("never", False, ""), True, id="white-space-kept"),
    pytest.param("", ECHOES, "a ", ("maybe", False, ""), True, id="echoes"),
    pytest.param("whitespace_echo = true", ECHOES, "a ", ("maybe", True, ""), True, id="echoes-over-other-white-space"),
    pytest.param('whitespace = "strip"', ECHOES, "a ", ("maybe", False, " "), True, id="echoes-stripped"),
]


@pytest.mark.parametrize(("keys", "support", "prefill", "told", "sent"), SPLICES)
def test_what_the_seam_is_told(keys: str, support: str, prefill: str, told: tuple[str, bool, str], sent: bool) -> None:
    """On a host that eats the prefill (leaves it out), the seam looks for no echo. On others it may find one.

    The seam is also given the white space that was not sent.
    """
    planned = step(acme(keys, support), prefill=prefill)
    assert rules(planned) == told
    assert (planned.seam.known, planned.mode, planned.support.value) == (prefill, "native", support)
    assert planned.sends_prefill is sent
    turns = [m for m in planned.model_input.messages if m["role"] == "assistant"]
    assert turns == ([{"role": "assistant", "content": prefill.removesuffix(told[2])}] if sent else [])


def test_the_seam_takes_what_it_is_told() -> None:
    """On a host that eats the prefill, text that equals it is new. On one that echoes it, that text is dropped."""
    eats, echoes = (step(acme(support=support), prefill="ha") for support in (EATS, ECHOES))
    seam = Seam(eats.seam.known, **eats.seam.rules)
    assert seam.feed("ha ha") + seam.close() == "ha ha"
    seam = Seam(echoes.seam.known, **echoes.seam.rules)
    assert seam.feed("ha ha") + seam.close() == " ha"
    assert seam.verdict is Verdict.ECHOED


def test_white_space_alone_makes_an_ordinary_request() -> None:
    """A prefill of only white space is not sent to a host that refuses white space at the end.

    The request has no turn, no dialect field and the ordinary base URL.
    """
    keys = (
        'whitespace = "strip"\ndialect = "prefix"\nbody_fields = { a = 1 }\nprefill_base_url = "https://acme.example/b"'
    )
    planned = step(acme(keys), prefill="\n ")
    assert planned.model_input == ModelInput(model="m", messages=(USER,))
    assert planned.sends_prefill is False
    assert planned.seam.known == "\n "


SHOWN = [
    # strict, show_when, result with a prefill, result without one
    (False, None, "accepted", "accepted"),
    (True, None, "decided", "accepted"),
    (False, "now", "now", "now"),
    (False, "accepted", "accepted", "accepted"),
    (False, "decided", "decided", "decided"),
    (False, "never", "never", "never"),
    (True, "decided", "decided", "decided"),
    (True, "never", "never", "never"),
]


@pytest.mark.parametrize("support", [EATS, ECHOES])
@pytest.mark.parametrize(("strict", "given", "with_prefill", "without"), SHOWN)
def test_when_the_prefill_is_shown(strict: bool, given: Any, with_prefill: str, without: str, support: str) -> None:
    """By default the prefill is shown when the host accepts the request.

    With `strict` it is shown with the first new text, because a later error must leave nothing. `show_when=` overrides
    the default.
    """
    row = acme(support=support)
    assert step(row, prefill="[", strict=strict, show_when=given).show_when == with_prefill
    assert step(row, strict=strict, show_when=given).show_when == without


@pytest.mark.parametrize(
    ("support", "options", "absent"),
    [
        (ECHOES, {"strict": True, "prefill": "["}, "raise"),
        (ECHOES, {"prefill": "["}, "join"),
        (EATS, {"strict": True, "prefill": "["}, "join"),
        (ECHOES, {"strict": True}, "join"),
        (ECHOES, {"absent": "raise", "prefill": "["}, "join"),
        (EATS, {"absent": "retry", "prefill": "["}, "join"),
        ("emulated", {"prefill": "["}, "join"),
        ("emulated", {"absent": "retry", "prefill": "["}, "retry"),
        ("emulated", {"absent": "raise", "prefill": "["}, "raise"),
        ("emulated", {"absent": "raise", "prefill": " "}, "join"),
        ("emulated", {"absent": "raise"}, "join"),
    ],
)
def test_what_becomes_of_a_reply_without_the_echo(support: str, options: dict[str, Any], absent: str) -> None:
    """Without the echo, `strict` raises on a host known to repeat the prefill.

    On an emulated request, `absent=` decides.
    """
    assert step(acme(support=support), **options).absent == absent


# --- whether the host takes a prefill ---------------------------------------------------------------------------

NOT_EMULATED = [pytest.param({"emulate": False}, id="no-emulation"), pytest.param({"strict": True}, id="strict")]


@pytest.mark.parametrize(
    ("model", "known_as"),
    [
        ("anthropic:claude-opus-4-6", "support table: emulated, evidence: doc"),
        ("openai:gpt-4o", "support table: emulated, evidence: issue"),
        ("groq:openai/gpt-oss-20b", "support table: emulated, evidence: guess"),
        ("together:any", "support table: emulated, evidence: guess"),
        ("openai-compatible:any", "support table: emulated, evidence: unknown"),
    ],
)
@pytest.mark.parametrize("no", NOT_EMULATED)
def test_a_row_that_is_not_native_is_refused(model: str, known_as: str, no: dict[str, Any]) -> None:
    """If emulation is not allowed, `PrefillRefused` says what the table knows.

    A guess of native support does not count.
    """
    with pytest.raises(PrefillRefused) as refused:
        plan_first(asked(prefill="[", **no), known(model), "its-name")
    assert (refused.value.model, refused.value.status, refused.value.why) == ("its-name", None, "model")
    assert known_as in str(refused.value)
    assert plan_first(asked(**no), known(model), "its-name").mode == "none"
    assert plan_first(asked(prefill="["), known(model), "its-name").mode == "emulated"


@pytest.mark.parametrize("no", NOT_EMULATED)
@pytest.mark.parametrize("support", ["emulated", "unsupported"])
def test_a_callers_row_that_is_not_native_is_refused(support: str, no: dict[str, Any]) -> None:
    """The same holds for a row of the caller's own table."""
    with pytest.raises(PrefillRefused, match=f"support table: {support}, evidence: engine"):
        step(acme(support=support), prefill="[", **no)


def test_what_asking_does_not_help_is_refused_in_every_case() -> None:
    """A row with "unsupported" is never emulated. A row with "emulated" is."""
    with pytest.raises(PrefillRefused, match="support table: unsupported"):
        step(acme(support="unsupported"), prefill="[")
    assert step(acme(support="emulated"), prefill="[").mode == "emulated"


@pytest.mark.parametrize("word", ["eats", "echoes", Support.EATS, Support.ECHOES])
@pytest.mark.parametrize("row_support", ["eats", "echoes", "emulated", "unsupported"])
def test_a_callers_word_wins(word: str | Support, row_support: str) -> None:
    """`support=` replaces the support of the table and uses the dialect of the row."""
    planned = step(acme('dialect = "partial"', row_support), prefill="[", support=word)
    assert planned.support is planned.row.support is Support(word)
    assert planned.model_input.messages[-1] == {"role": "assistant", "content": "[", "partial": True}
    assert rules(planned)[0] == ("never" if planned.support is Support.EATS else "maybe")
    assert (planned.row.evidence, planned.sends_prefill) == ("caller", True)


def test_a_callers_word_against_a_prefill() -> None:
    """`support=` may also say that the host takes no prefill. It matters only if there is a prefill."""
    for word, no in (("emulated", {"emulate": False}), ("emulated", {"strict": True}), ("unsupported", {})):
        with pytest.raises(PrefillRefused, match=f"{word}, evidence: caller"):
            step(acme(), prefill="[", support=word, **no)
        assert step(acme(), support=word).support is Support.EATS
    planned = step(acme(), prefill="[", support="emulated")
    assert (planned.mode, planned.row.evidence, planned.sends_prefill) == ("emulated", "caller", False)


# --- corners ----------------------------------------------------------------------------------------------------


def test_a_prefill_of_which_nothing_is_sent_demands_and_forbids_nothing() -> None:
    """White space that the host strips makes an ordinary request: no echo is expected and nothing conflicts."""
    row = acme('whitespace = "strip"\nconflicts = { thinking = "breaks" }', "echoes")
    planned = step(row, prefill="\n", strict=True, thinking={"type": "enabled"})
    assert (planned.sends_prefill, planned.absent, planned.mode) == (False, "join", "native")


def test_a_conflict_is_judged_by_what_is_sent() -> None:
    """A conflict is judged by what is sent: a field of `extra` wins over the argument."""
    row = acme('conflicts = { thinking = "breaks" }')
    with pytest.raises(UsageError, match="thinking"):
        step(row, prefill="x", thinking={"type": "disabled"}, extra={"thinking": {"type": "enabled"}})
    step(row, prefill="x", thinking={"type": "enabled"}, extra={"thinking": None})


def test_repeated_stop_sequences_count_once() -> None:
    """Repeated stop sequences are sent once, so they do not use up the host's maximum."""
    planned = step(acme("max_stop = 2"), stop=["a", "a", "a", "b", "c"])
    assert (planned.model_input.stop, planned.stop) == (("a", "b"), ("c",))
