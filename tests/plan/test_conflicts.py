"""Settings that break a native prefill, or may break it: found in the request and named in the caller's words.

The seam is the code that joins the prefill and the model's text.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from aprefill import PrefillRefused, Recovery, Reply, Session, Support, SupportTable, UsageError, stream
from aprefill._codecs import PROTOCOLS, codec
from aprefill._deltas import ModelInput
from aprefill._hosts.table import builtin_table
from aprefill._plan import conflicts
from aprefill._plan.options import Options
from aprefill._plan.request import Request, make_request
from aprefill.testing import Script, serve

from ..support.planning import plan_first

if TYPE_CHECKING:
    from aprefill.testing import Server

EVERY = ("thinking", "grammar", "tools", "tool_choice", "response_format")
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
TOOL = {"name": "f"}


def asked(prefill: str = "[", **options: Any) -> Request:
    return make_request("Hi", prefill, Options(**options))


def switched_on(request: Request) -> dict[str, str]:
    """Return the settings that are switched on. The codecs of all protocols must agree."""
    found = [conflicts.switched_on(request, codec(name)) for name in PROTOCOLS]
    assert all(one == found[0] for one in found)
    return found[0]


def extra(name: str, value: Any) -> tuple[str, dict[str, Any]]:
    return f"extra[{name!r}]", {"extra": {name: value}}


#: setting -> every way to switch it on: the caller's name for it, and the call
ON: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "grammar": [extra("grammar", "root ::= [0-9]")],
    "thinking": [
        ("thinking", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
        ("thinking", {"thinking": {"type": "adaptive"}}),
        ("thinking", {"thinking": {"budget_tokens": 1024}}),
        extra("thinking", {"type": "enabled"}),
        extra("thinking", True),
        extra("enable_thinking", True),
        extra("chat_template_kwargs", {"enable_thinking": True}),
        extra("chat_template_kwargs", {"thinking": True}),
        extra("reasoning", {"effort": "low"}),
        extra("reasoning", {"enabled": True}),
        extra("reasoning", {"max_tokens": 100}),
        *(extra("reasoning_effort", effort) for effort in ("minimal", "low", "medium", "high", "default")),
    ],
    "tools": [
        ("tools", {"tools": [TOOL]}),
        extra("tools", [TOOL]),
        extra("functions", [TOOL]),
    ],
    "tool_choice": [
        extra("tool_choice", "required"),
        extra("tool_choice", "any"),
        extra("tool_choice", "f"),
        extra("tool_choice", {"type": "any"}),
        extra("tool_choice", {"type": "tool", "name": "f"}),
        extra("tool_choice", {"type": "function", "function": {"name": "f"}}),
        extra("tool_choice", {"type": "allowed_tools", "allowed_tools": {}}),
        extra("tool_choice", {"type": {}}),
        extra("function_call", {"name": "f"}),
    ],
    "response_format": [
        ("response_format", {"response_format": SCHEMA}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        extra("response_format", {"type": "json_object"}),
        extra("output_config", {"format": {"type": "json_schema", "schema": {}}}),
        extra("output_format", {"type": "json_schema", "schema": {}}),
        extra("format", "json"),
        extra("format", {"type": "object"}),
        extra("json_schema", {"type": "object"}),
        *(extra(name, "x") for name in ("guided_regex", "guided_grammar", "regex", "ebnf")),
        *(extra(name, {"type": "object"}) for name in ("guided_json", "structured_outputs", "structural_tag")),
        extra("guided_choice", ["a", "b"]),
    ],
}
#: setting -> the ways that leave it off
OFF: dict[str, list[dict[str, Any]]] = {
    "grammar": [{}, {"extra": {"grammar": None}}, {"extra": {"grammar": ""}}],
    "thinking": [
        {},
        {"thinking": {}},
        {"thinking": {"type": "disabled"}},
        {"thinking": {"type": "enabled"}, "extra": {"thinking": None}},
        {"thinking": {"type": "enabled"}, "extra": {"thinking": {"type": "disabled"}}},
        {"extra": {"thinking": False}},
        {"extra": {"enable_thinking": False}},
        {"extra": {"enable_thinking": None}},
        {"extra": {"chat_template_kwargs": {"enable_thinking": False}}},
        {"extra": {"chat_template_kwargs": {"thinking": False, "other": True}}},
        {"extra": {"chat_template_kwargs": None}},
        {"extra": {"reasoning": None}},
        {"extra": {"reasoning": {}}},
        {"extra": {"reasoning": {"enabled": False}}},
        {"extra": {"reasoning": {"effort": "none"}}},
        *({"extra": {"reasoning_effort": effort}} for effort in (None, "", "none")),
    ],
    "tools": [
        {},
        {"tools": []},
        {"tools": [TOOL], "extra": {"tools": None}},
        {"extra": {"tools": []}},
        {"extra": {"functions": []}},
    ],
    "tool_choice": [
        {},
        *({"extra": {"tool_choice": choice}} for choice in (None, "", "auto", "none", {})),
        *({"extra": {"tool_choice": {"type": kind}}} for kind in ("auto", "none")),
        {"extra": {"function_call": "auto"}},
        {"extra": {"function_call": "none"}},
    ],
    "response_format": [
        {},
        {"response_format": {}},
        {"response_format": {"type": "text"}},
        {"response_format": SCHEMA, "extra": {"response_format": None}},
        {"extra": {"response_format": {"type": "text"}}},
        {"extra": {"output_config": None}},
        {"extra": {"output_config": {"effort": "low"}}},
        {"extra": {"output_config": {"format": None}}},
        {"extra": {"output_format": None}},
        {"extra": {"format": None}},
        {"extra": {"guided_json": None, "grammar": "", "guided_choice": []}},
    ],
}
ON_CASES = [
    pytest.param(setting, spelled, options, id=f"{setting}-{n}")
    for setting, ways in ON.items()
    for n, (spelled, options) in enumerate(ways)
]
OFF_CASES = [
    pytest.param(setting, options, id=f"{setting}-{n}")
    for setting, ways in OFF.items()
    for n, options in enumerate(ways)
]


@pytest.mark.parametrize(("setting", "spelled", "options"), ON_CASES)
def test_what_is_on_is_found_and_named(setting: str, spelled: str, options: dict[str, Any]) -> None:
    """Every spelling of each setting is found under the caller's name for it, and no other setting with it."""
    assert switched_on(asked(**options)) == {setting: spelled}


@pytest.mark.parametrize(("setting", "options"), OFF_CASES)
def test_what_is_off_is_not_found(setting: str, options: dict[str, Any]) -> None:
    """A setting that is off in any spelling is not found. A field of `extra` wins over the argument."""
    assert setting not in switched_on(asked(**options))


def test_all_of_them_at_once() -> None:
    """Several settings at once are all found. The first spelling of each is named."""
    found = switched_on(
        asked(
            thinking={"type": "enabled"},
            tools=[TOOL],
            response_format=SCHEMA,
            extra={"tool_choice": "any", "enable_thinking": True, "functions": [TOOL], "regex": "x"},
        )
    )
    words = {name: name for name in ("thinking", "tools", "response_format")}
    assert found == {**words, "tool_choice": "extra['tool_choice']"}


# --- what a conflict leads to ------------------------------------------------------------------------------------


def table(server: Server | None, **conflicts: str) -> SupportTable:
    """A table with the host "acme", which has these conflicts, at the loopback server."""
    said = ", ".join(f'{setting} = "{word}"' for setting, word in conflicts.items())
    return SupportTable.load(
        '[[host]]\nprovider = "acme"\napi = "chat"\ncodec = "openai_chat"\nauth = "none"\nkey_required = false\n'
        f'base_url = "{server.openai_url if server else "https://acme.example/v1"}"\nconflicts = {{ {said} }}\n'
        '[[host.model]]\nmatch = ["echoes"]\nsupport = "echoes"\nevidence = "engine"\nsource = "s"\ndate = 2026-01-01\n'
        '[[host.model]]\nmatch = ["asks"]\nsupport = "emulated"\nevidence = "engine"\nsource = "s"\ndate = 2026-01-01\n'
        '[[host.model]]\nmatch = ["*"]\nsupport = "eats"\nevidence = "engine"\nsource = "s"\ndate = 2026-01-01\n'
    )


ROWS = {word: {setting: table(None, **{setting: word}) for setting in EVERY} for word in ("breaks", "unknown")}


def mode(word: str, setting: str, model: str = "m", **options: Any) -> str:
    """Return the mode of the first plan if `setting` has this kind of conflict."""
    return plan_first(asked(**options), ROWS[word][setting].row("acme", model), model).mode


@pytest.mark.parametrize(("setting", "spelled", "options"), ON_CASES)
def test_what_breaks_is_an_error_in_the_callers_words(setting: str, spelled: str, options: dict[str, Any]) -> None:
    """A known conflict raises a `UsageError` that names the host, the setting and what to switch off.

    `support=` does not change that.
    """
    says = (
        f"acme cannot combine a native prefill with {setting}; switch {spelled} off, leave prefill= out, "
        'or pass support="emulated" to ask for the prefill in the prompt'
    )
    for more in ({}, {"support": "eats"}, {"emulate": False}, {"strict": True}):
        with pytest.raises(UsageError) as error:
            mode("breaks", setting, **options, **more)
        assert str(error.value) == says
    # The remedies in the message work.
    assert mode("breaks", setting, **options, support="emulated") == "emulated"
    assert mode("breaks", setting, **options, prefill="") == "none"
    assert mode("breaks", setting) == "native"


@pytest.mark.parametrize(("setting", "spelled", "options"), ON_CASES)
def test_what_may_break_is_asked_for_in_the_prompt(setting: str, spelled: str, options: dict[str, Any]) -> None:
    """With a setting that may break a prefill, the prefill is emulated.

    If emulation is not allowed, `PrefillRefused` says what is not known. With `support=` it is native.
    """
    assert mode("unknown", setting, **options) == "emulated"
    for more in ({"emulate": False}, {"strict": True}):
        with pytest.raises(PrefillRefused) as refused:
            mode("unknown", setting, **options, **more)
        assert (refused.value.why, refused.value.status) == (setting, None)
        assert f"it is not known to work with {spelled}), and nothing was sent" in str(refused.value)
        assert mode("unknown", setting, **options, **more, support="eats") == "native"
    for support in (Support.EATS, "echoes"):
        assert mode("unknown", setting, **options, support=support) == "native"
    assert mode("unknown", setting, **options, prefill="") == "none"


@pytest.mark.parametrize("word", ["breaks", "unknown"])
@pytest.mark.parametrize(("setting", "options"), OFF_CASES)
def test_what_is_off_breaks_nothing(word: str, setting: str, options: dict[str, Any]) -> None:
    """With the setting switched off, the prefill is native."""
    assert mode(word, setting, **options) == "native"


@pytest.mark.parametrize("word", ["breaks", "unknown"])
@pytest.mark.parametrize(("setting", "spelled", "options"), ON_CASES)
def test_a_prefill_that_is_asked_for_is_in_no_conflict(
    word: str, setting: str, spelled: str, options: dict[str, Any]
) -> None:
    """An emulated prefill has no conflicts, and the conflict of another setting does not count."""
    assert mode(word, setting, "asks", **options) == "emulated"
    other = EVERY[EVERY.index(setting) - 1]
    assert mode(word, other, **options) == "native"


def test_a_known_break_counts_more_than_an_unknown_one() -> None:
    """A known conflict is reported before an unknown one, in whichever order they are found."""
    both: dict[str, Any] = {"thinking": {"type": "enabled"}, "tools": [TOOL]}
    for words in (("breaks", "unknown"), ("unknown", "breaks")):
        row = table(None, thinking=words[0], tools=words[1]).row("acme", "m")
        setting = ("thinking", "tools")[words.index("breaks")]
        with pytest.raises(UsageError, match=f"with {setting};"):
            plan_first(asked(**both), row, "m")


# --- over the network --------------------------------------------------------------------------------------------


def reply(session: Session, model: str = "acme:m", **options: Any) -> Reply:
    return session.stream("Hi", prefill="[", model=model, recovery=Recovery(retries=0), **options)


@pytest.mark.any_loop
@pytest.mark.anyio
@pytest.mark.parametrize("setting", EVERY)
async def test_nothing_is_sent_in_a_conflict(setting: str) -> None:
    """A request with a conflict opens no connection. The control: without one the same server is used."""
    _, options = ON[setting][-1]
    script = Script(text="1]", prefill="eats")
    async with serve(script) as server, Session(table=table(server, **{setting: "breaks"})) as session:
        with pytest.raises(UsageError, match=f"with {setting};"):
            await reply(session, **options).text()
        assert server.connections == 0
        assert await reply(session).text() == "[1]"
        assert server.connections == 1
    async with serve(script) as server, Session(table=table(server, **{setting: "unknown"})) as session:
        for no in ({"emulate": False}, {"strict": True}):
            with pytest.raises(PrefillRefused):
                await reply(session, **options, **no).text()
        assert server.connections == 0
        native = reply(session, **options, support="eats")
        assert (await native.text(), native.mode) == ("[1]", "native")
        emulated = reply(session, **options)
        assert (await emulated.text(), emulated.mode) == ("[1]", "emulated")
        assert server.connections == 1


# --- a field of `extra` that would override an argument ------------------------------------------------------------

#: argument -> a value, and the fields that override it in chat completions and in messages
UNDONE: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...]]] = {
    "system": ("Be brief.", ("system", "messages"), ("system", "messages")),
    "max_tokens": (9, ("max_tokens", "max_completion_tokens"), ("max_tokens",)),
    "stop": ("END", ("stop",), ("stop", "stop_sequences")),
    "temperature": (0.5, ("temperature",), ("temperature",)),
    "thinking": ({"type": "disabled"}, ("thinking",), ("thinking",)),
    "tools": ([TOOL], ("tools",), ("tools",)),
    "response_format": (SCHEMA, ("response_format",), ("response_format", "output_config", "output_format")),
}
MODELS = {"chat": "openai:gpt-4o", "messages": "anthropic:claude-haiku-4-5"}
UNDONE_CASES = [
    pytest.param(wire, argument, value, field, id=f"{wire}-{argument}-{field}")
    for argument, (value, *fields) in UNDONE.items()
    for wire, names in zip(MODELS, fields, strict=True)
    for field in names
]


@pytest.mark.parametrize("instead", [None, "x", {"effort": "low"}], ids=["none", "text", "dict"])
@pytest.mark.parametrize(("wire", "argument", "value", "field"), UNDONE_CASES)
def test_a_field_that_would_undo_an_argument(wire: str, argument: str, value: Any, field: str, instead: Any) -> None:
    """A field of `extra` that overrides an argument raises `UsageError` at the call, whatever its value.

    This also holds if one of the two comes from the session.
    """
    options: dict[str, Any] = {"model": MODELS[wire], "api_key": "k"}
    says = re.escape(f"extra[{field!r}] together with ")
    with pytest.raises(UsageError, match=says):
        stream("Hi", **options, **{argument: value}, extra={field: instead})
    with pytest.raises(UsageError, match=says):
        Session(**options, **{argument: value}).stream("Hi", extra={field: instead})
    with pytest.raises(UsageError, match=says):
        Session(**options, extra={field: instead}).stream("Hi", **{argument: value})


@pytest.mark.parametrize(("wire", "argument", "value", "field"), UNDONE_CASES)
def test_a_field_without_its_argument_is_the_caller_s(wire: str, argument: str, value: Any, field: str) -> None:
    """The same field without the argument is allowed, and so is the argument with another field.

    `messages` is excepted: every call has a prompt.
    """
    options: dict[str, Any] = {"model": MODELS[wire], "api_key": "k"}
    stream("Hi", **options, **{argument: value}, extra={"seed": 1})
    if field != "messages":
        stream("Hi", **options, extra={field: value})


@pytest.mark.parametrize("wire", MODELS)
@pytest.mark.parametrize("field", ["messages", "model"])
def test_a_field_that_is_always_given(wire: str, field: str) -> None:
    """The fields `messages` and `model` are never allowed: every call has arguments for them."""
    with pytest.raises(UsageError, match="leave the field out"):
        stream("Hi", model=MODELS[wire], api_key="k", extra={field: "x"})


@pytest.mark.parametrize("wire", MODELS)
def test_a_reply_is_always_streamed(wire: str) -> None:
    """`extra={"stream": True}` is allowed, but streaming cannot be switched off."""
    stream("Hi", model=MODELS[wire], api_key="k", extra={"stream": True})
    for off in (False, None):
        with pytest.raises(UsageError, match=r"extra\['stream'\]: every reply is streamed"):
            stream("Hi", model=MODELS[wire], api_key="k", extra={"stream": off})


def test_what_carries_a_prefill_cannot_be_taken_away() -> None:
    """A field that carries the prefill cannot be removed. Without a prefill it can."""
    for off in (False, None):
        options: dict[str, Any] = {"model": "vllm:m", "extra": {"continue_final_message": off}}
        stream("Hi", **options)
        with pytest.raises(UsageError, match="together with prefill="):
            stream("Hi", prefill="[", **options)


#: argument -> values for it, and fields that are the same setting on some host
SAME: dict[str, tuple[tuple[Any, ...], tuple[tuple[str, Any], ...]]] = {
    "thinking": (
        ({"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}),
        (
            ("enable_thinking", True),
            ("enable_thinking", False),
            ("think", False),
            ("thinking_budget", 0),
            ("reasoning", {"effort": "none"}),
            ("reasoning", {"enabled": True}),
            ("reasoning_effort", "none"),
            ("reasoning_effort", "high"),
            ("chat_template_kwargs", {"enable_thinking": False}),
            ("chat_template_kwargs", {"thinking": True}),
            ("chat_template_kwargs", {"reasoning_effort": "low", "other": 1}),
        ),
    ),
    "response_format": (
        (SCHEMA, {"type": "text"}),
        (
            ("guided_json", {"type": "object"}),
            ("guided_regex", "[0-9]+"),
            ("guided_grammar", "root ::= [0-9]"),
            ("guided_choice", ["a"]),
            ("guided_decoding", {"regex": "x"}),
            ("structured_outputs", {"regex": "x"}),
            ("grammar", "root ::= [0-9]"),
            ("json_schema", {"type": "object"}),
            ("format", "json"),
            ("regex", "x"),
            ("ebnf", "x"),
            ("structural_tag", {"a": 1}),
            ("output_config", {"format": {"type": "json_schema"}}),
            ("output_format", {"type": "json_schema"}),
        ),
    ),
    "stop": (("END", ["a", "b"]), (("stop_sequences", ["x"]), ("stop_sequences", []), ("stop", "x"))),
    "max_tokens": (
        (9,),
        tuple(
            (name, value)
            for name in ("max_completion_tokens", "max_new_tokens", "max_output_tokens", "n_predict", "num_predict")
            for value in (0, 99)
        ),
    ),
    "system": (("Be brief.",), (("system", "x"), ("messages", []))),
    "temperature": ((0.5, 0), (("temperature", 1),)),
    "tools": (([TOOL],), (("tools", []), ("tools", None))),
}
SAME_CASES = [
    pytest.param(argument, value, field, id=f"{argument}-{n}-{field[0]}-{m}")
    for argument, (values, fields) in SAME.items()
    for n, value in enumerate(values)
    for m, field in enumerate(fields)
]
#: calls with a field of `extra` that overrides nothing
HARMLESS: list[dict[str, Any]] = [
    {"stop": "END", "extra": {"stop_token_ids": [2]}},
    {"tools": [TOOL], "extra": {"tool_choice": "none"}},
    {"tools": [TOOL], "extra": {"parallel_tool_calls": False}},
    {"thinking": {"type": "disabled"}, "extra": {"chat_template_kwargs": {"date": "today"}}},
    {"thinking": {"type": "disabled"}, "extra": {"chat_template_kwargs": None, "reasoning_effort": None}},
    {"thinking": {"type": "disabled"}, "extra": {"guided_json": {}, "max_new_tokens": 9, "stop_sequences": ["x"]}},
    {"response_format": SCHEMA, "extra": {"guided_json": None, "grammar": "", "guided_choice": [], "regex": None}},
    {"response_format": SCHEMA, "extra": {"reasoning_effort": "low", "n_predict": 9}},
    {"max_tokens": 9, "extra": {"min_tokens": 1, "max_thinking_tokens": 5, "num_predict": None}},
    {"temperature": 0.5, "extra": {"top_p": 0.5, "seed": 1}},
    {"system": "Be brief.", "extra": {"user": "u", "metadata": {"messages": "m"}}},
    {"extra": {"stream_options": None, "service_tier": "flex", "echo": True, "add_generation_prompt": True}},
]


@pytest.mark.parametrize("wire", MODELS)
@pytest.mark.parametrize(("argument", "value", "field"), SAME_CASES)
def test_a_field_of_some_host_that_says_the_same(wire: str, argument: str, value: Any, field: tuple[str, Any]) -> None:
    """A field that is the same setting on some host raises a `UsageError` that names both, on both protocols.

    Some hosts accept each other's fields, or ignore one of the two.
    """
    options: dict[str, Any] = {"model": MODELS[wire], "api_key": "k"}
    name, instead = field
    with pytest.raises(UsageError, match=re.escape(f"extra[{name!r}] together with ")):
        stream("Hi", **options, **{argument: value}, extra={name: instead})
    if name != "messages":
        stream("Hi", **options, extra={name: instead})
    stream("Hi", **options, **{argument: value})


@pytest.mark.parametrize("wire", MODELS)
@pytest.mark.parametrize("options", HARMLESS)
def test_a_field_that_undoes_nothing(wire: str, options: dict[str, Any]) -> None:
    """The control: a field that overrides nothing is allowed."""
    stream("Hi", model=MODELS[wire], api_key="k", **options)


@pytest.mark.parametrize("wire", MODELS)
@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_prompt_among_the_messages(wire: str, role: str) -> None:
    """The `system` field is also refused if the system prompt is one of the messages.

    On the messages protocol that prompt becomes this field.
    """
    prompt = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    with pytest.raises(UsageError, match=re.escape("extra['system'] together with ")):
        stream(prompt, model=MODELS[wire], api_key="k", extra={"system": "x"})


#: model, other arguments, and fields that disable what carries the prefill
SWITCHES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("vllm:m", {}, {"add_generation_prompt": True}),
    ("vllm:m", {}, {"continue_final_message": False}),
    ("vllm:m", {}, {"echo": True}),
    ("llama_cpp:m", {}, {"add_generation_prompt": True}),
    ("sglang:m", {}, {"add_generation_prompt": False}),
    ("sglang:m", {}, {"continue_final_message": None}),
    ("openai-compatible:m", {"support": "eats", "base_url": "http://127.0.0.1/v1"}, {"add_generation_prompt": True}),
    ("openai-compatible:m", {"support": "eats", "base_url": "http://127.0.0.1/v1"}, {"echo": True}),
    ("vllm:qwen3-8b", {}, {"chat_template_kwargs": {"date": "today"}}),
    ("vllm:qwen3-8b", {}, {"chat_template_kwargs": None}),
    ("deepseek:deepseek-chat", {}, {"thinking": None}),
]
#: The same with fields that do not affect the prefill.
NO_SWITCHES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("vllm:m", {}, {"add_generation_prompt": False, "continue_final_message": True, "echo": False}),
    ("vllm:m", {}, {"add_generation_prompt": None}),
    ("vllm:m", {"support": "echoes"}, {"echo": True}),
    ("vllm:m", {"support": "emulated"}, {"add_generation_prompt": True, "echo": True}),
    ("vllm:m", {"prefill": ""}, {"add_generation_prompt": True, "continue_final_message": False, "echo": True}),
    ("sglang:m", {}, {"add_generation_prompt": True}),
    (
        "openai-compatible:m",
        {"support": "eats", "base_url": "http://127.0.0.1/v1"},
        {"add_generation_prompt": False, "continue_final_message": True},
    ),
    ("openai:gpt-4o", {}, {"add_generation_prompt": True}),
    ("vllm:qwen3-8b", {}, {"chat_template_kwargs": {"enable_thinking": False, "date": "today"}}),
    ("deepseek:deepseek-chat", {}, {"thinking": {"type": "disabled", "note": 1}}),
]


@pytest.mark.parametrize(("model", "options", "fields"), SWITCHES)
def test_a_field_that_takes_a_prefill_s_switch(model: str, options: dict[str, Any], fields: dict[str, Any]) -> None:
    """A field that disables the prefill raises `UsageError`.

    With it the host would begin a new turn, think, or repeat text that the seam does not look for.
    """
    says = re.escape(f"extra[{next(iter(fields))!r}] together with prefill=")
    with pytest.raises(UsageError, match=says):
        stream("Hi", **{"model": model, "api_key": "k", "prefill": "[", **options}, extra=fields)


@pytest.mark.parametrize(("model", "options", "fields"), NO_SWITCHES)
def test_a_field_that_leaves_a_prefill_s_switch(model: str, options: dict[str, Any], fields: dict[str, Any]) -> None:
    """A field that repeats the host's own switch is allowed.

    So is a switch of the caller's for a host without a row, and any switch if no prefill is native.
    """
    stream("Hi", **{"model": model, "api_key": "k", "prefill": "[", **options}, extra=fields)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_codec_says_what_its_arguments_become(protocol: str) -> None:
    """The codec lists every argument that goes into the body, with the field that `encode` makes of it."""
    it = codec(protocol)
    base: dict[str, Any] = {"model": "m", "messages": ({"role": "user", "content": "Hi"},), "max_tokens": 1}
    plain = it.encode(ModelInput(**base))
    values = {name: value for name, (value, *_) in UNDONE.items()}
    every = {**values, "stop": ("END",), "tools": (TOOL,), "max_tokens": 9}
    given = {name: value for name, value in every.items() if name in it.arguments}
    assert it.arguments.keys() == {"model", "prompt", *given}
    for argument, value in given.items():
        made = it.encode(ModelInput(**{**base, argument: value}))
        changed = {field for field in made if made[field] != plain.get(field)}
        assert changed
        assert changed <= {field.partition(".")[0] for field in it.arguments[argument]}


def test_what_breaks_comes_before_what_is_unknown() -> None:
    """A setting that breaks a prefill is reported before one that may break it, in whichever order they are named."""
    row = replace(
        builtin_table().row("anthropic", "claude-haiku-4-5"), conflicts={"tools": "unknown", "thinking": "breaks"}
    )
    both = {"tools": "tools=", "thinking": "thinking="}
    assert conflicts.conflict(row, both) == ("breaks", "thinking", "thinking=")
    assert conflicts.conflict(row, dict(reversed(both.items()))) == ("breaks", "thinking", "thinking=")
    assert conflicts.conflict(row, {"tools": "tools="}) == ("unknown", "tools", "tools=")
    assert conflicts.conflict(row, {"response_format": "response_format="}) is None
