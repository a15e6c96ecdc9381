"""The key and the prompt are removed from a host's message.

They are found whole, in part, in other case, re-spaced, escaped and cut.
"""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aprefill._codecs._host_error import body_error
from aprefill._hosts import redact as _redact
from aprefill._hosts.redact import LOOKED_AT, MATCH_MIN, TAIL_MIN, WHOLE_MIN, Redactor, written

from ..support.planning import asked
from ..support.refusals import REFUSALS
from ..support.table import SHARED, needs_recordings

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-0123456789abcdef"
PROMPT = 'say "hello"\nto the new neighbours \u00e4'
PATIENT = "Dear colleague,\nplease see Patient Jane Roe, born 1970, on Monday.\nWith kind regards"


@pytest.fixture
def redact() -> Redactor:
    messages = (
        {"role": "user", "content": PROMPT},
        {"role": "user", "content": [{"type": "text", "text": "a text part of it"}, {"type": "image"}]},
        {"role": "user", "content": "short"},
    )
    options = {
        "prompt": list(messages),
        "system": "the system prompt of the house",
        "prefill": "the beginning of a reply",
    }
    return Redactor(KEY, asked(**options).texts())


# --- keys -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [KEY, f"bad key '{KEY}'!", f"{KEY}{KEY}", KEY.upper(), KEY[1:-1], " ".join(KEY)])
def test_the_key_goes(redact: Redactor, text: str) -> None:
    """The key is replaced anywhere in a text, in other case, re-spaced, and without its first and last character."""
    assert KEY[1:-1] not in redact(text).lower().replace(" ", "")
    assert "[key]" in redact(text)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        (
            "ollama",
            "pull it with `ollama pull`: ollama_host, ollamas",
            "pull it with `[key] pull`: [key]_host, ollamas",
        ),
        ("none", "nonetheless nobody knows (none)", "nonetheless nobody knows ([key])"),
        ("test", "the latest attestation of a tester", "the latest attestation of a tester"),
        ("x1", "max1 of 0x10", "max1 of 0x10"),
        ("lm-studio", "lm-studio says no", "[key] says no"),
        ("hunter22", "it was hunter223", "it was [key]3"),
    ],
)
def test_a_key_that_is_a_word_is_not_cut_out_of_other_words(key: str, text: str, expected: str) -> None:
    """A key that could be an ordinary word is replaced only where it is a whole word.

    Any other key is replaced everywhere.
    """
    assert Redactor(key)(text) == expected


# --- prompts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        PROMPT,
        json.dumps(PROMPT),
        json.dumps(PROMPT, ensure_ascii=False),
        repr(PROMPT),
        "a text part of it",
        "the system prompt of the house",
    ],
)
def test_the_prompt_goes(redact: Redactor, said: str) -> None:
    """The prompt is replaced, plain or as JSON and Python write it, from messages, parts and the system prompt."""
    assert redact(f"cannot read {said} here") in {f"cannot read {q}[prompt]{q} here" for q in ("", '"', "'")}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Invalid text: '...nt Jane Roe, born 1970...'", "Invalid text: '...[prompt]...'"),
        ("INVALID: PATIENT JANE ROE, BORN 1970!", "INVALID: [prompt]!"),
        ("cannot parse `patient\n   jane\troe,\n born 1970`", "cannot parse `[prompt]`"),
        ("line 3: With kind regards", "line 3: [prompt]"),
        ("P a t i e n t   J a n e", "[prompt]"),
        ("PatientJaneRoe,born", "[prompt]"),
    ],
)
def test_a_part_of_the_prompt_goes(said: str, expected: str) -> None:
    """A part of the prompt is replaced from 16 characters on, in any case and with any white space.

    It may be one of many lines.
    """
    assert Redactor("", [PATIENT])(said) == expected


#: Words of several scripts, and the characters of escapes and quotes.
_WORDS = [
    *("Jane", "Roe", "1970", "born", "caf\u00e9", "Stra\u00dfe", "\u65e5\u672c", "\U0001f600"),
    *('"x"', "it's", "a\\b", "\n", "\t", "C:\\new\\u00e9"),
]

#: The ways in which a host may quote a text.
QUOTED: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper": str.upper,
    "swapped": str.swapcase,
    "spaced": lambda text: "  \n".join(text.split(" ")),
    "joined": lambda text: "".join(text.split()),
    "json": lambda text: json.dumps(text)[1:-1],
    "json-utf8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "json-in-json": lambda text: json.dumps(json.dumps(text))[3:-3],
    "repr": lambda text: repr(text)[1:-1],
    "ascii": lambda text: ascii(text)[1:-1],
    "repr-of-json": lambda text: repr(json.dumps(text))[2:-2],
    "repr-of-bytes": lambda text: repr(text.encode())[2:-1],
}


def left_of(how: Callable[[str], str], seed: int, rounds: int) -> list[str]:
    """Return what is shown, besides `[prompt]`, of random pieces of a prompt that a host quotes."""
    rng = random.Random(seed)
    shown = []
    for _ in range(rounds):
        prompt = " ".join(rng.choices(_WORDS, k=60))
        start = rng.randrange(len(prompt) - 100)
        piece = prompt[start : start + rng.randrange(24, 60)].strip(" \n\t\"'")
        # If a piece cuts an escape in two, up to nine characters of the escape stay: remove them here.
        piece = re.sub(r"^(b|new|u00e9|00e9)?\S*\s|(\s\S*\\\S*)+$", "", piece).strip()
        if sum(map(str.isalnum, piece)) < MATCH_MIN:
            continue
        texts = [prompt] if rng.random() < 0.5 else ["other words", prompt, "and others"]
        text = Redactor("", texts)(f"<<<{how(piece)}>>>")
        if text != "<<<[prompt]>>>":
            shown.append(f"{piece!r}: {text!r}")
    return shown


@pytest.mark.parametrize("how", QUOTED)
def test_a_random_piece_never_survives(how: str) -> None:
    """A random piece is replaced, however the host writes it, and the text around it stays."""
    assert left_of(QUOTED[how], seed=1, rounds=200) == []


@pytest.mark.parametrize(
    ("how", "name", "broken"),
    [
        ("plain", "MATCH_MIN", 64),
        ("json", "_meant", lambda match: ""),
        ("repr-of-bytes", "_meant", lambda match: "x" * bool(match[5])),
    ],
)
def test_control_a_broken_rule_lets_pieces_through(
    monkeypatch: pytest.MonkeyPatch, how: str, name: str, broken: Any
) -> None:
    """The control: a longer minimum length, or no understanding of escapes, fails the check."""
    monkeypatch.setattr(_redact, name, broken)
    assert left_of(QUOTED[how], seed=1, rounds=200)


def left_of_a_cut(how: Callable[[str], str], seed: int, rounds: int) -> list[str]:
    """Return what is shown, besides `[prompt]`, of quotations truncated at either end, even inside an escape."""
    rng = random.Random(seed)
    shown = []
    for _ in range(rounds):
        prompt = " ".join(rng.choices(["Jane", "Roe", "1970", "born", "caf\u00e9", "\u65e5\u672c", "\U0001f600"], k=60))
        quoted = how(prompt)
        start = rng.randrange(len(quoted) - 140)
        piece = quoted[start : start + rng.randrange(100, 140)].strip()
        if len(re.sub(r"\\+\w+|\W", "", piece)) < MATCH_MIN:
            continue
        text = Redactor("", [prompt])(f"<<<{piece}>>>")
        # A backslash reveals nothing. The rest of an escape before a blank may be the host's own text.
        text = re.sub(r"^<<<[uUxX]?[0-9a-fA-F]{1,8} ", "<<<", text.replace("\\", "")).replace(" >", ">")
        if text != "<<<[prompt]>>>":
            shown.append(f"{piece!r}: {text!r}")
    return shown


@pytest.mark.parametrize("how", sorted(QUOTED.keys() - {"joined"}))
def test_no_part_of_an_escape_survives(how: str) -> None:
    """An escape that is cut in two at either end of the quotation leaves no readable part."""
    assert left_of_a_cut(QUOTED[how], seed=2, rounds=400) == []


def test_control_without_the_rule_parts_of_escapes_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the rule for cut escapes, parts of escapes stay."""
    monkeypatch.setattr(_redact, "_with_cut_escapes", lambda text, start, end: (start, end))
    assert left_of_a_cut(QUOTED["ascii"], seed=2, rounds=400)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("in 'the old house by the sea', line 3", "in '[prompt]', line 3"),
        ("beef the old house by the sea cafe", "beef [prompt] cafe"),
        ("line 12 the old house by the sea=users", "line 12 [prompt]=users"),
        ("face=the old house by the sea=\\u12", "face=[prompt]=\\u12"),
    ],
)
def test_what_stands_beside_a_run_stays(said: str, expected: str) -> None:
    """Text next to a replaced run stays, unless it may be part of an escape."""
    assert Redactor("", ["I look at the old house by the sea\nwith you"])(said) == expected


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("last", range(3))
def test_bytes_that_are_cut_in_a_character(first: int, last: int) -> None:
    """In the escapes of a text without ASCII, half a character at an end does not prevent the replacement."""
    prompt = (
        "\u4eca\u65e5\u306f\u5929\u6c17\u304c\u826f\u3044\u306e\u3067\u6563\u6b69\u3092\u3057\u307e\u3057\u3087\u3046"
    )
    octets = prompt.encode()
    said = f"no: {octets[first : len(octets) - last]!r}"
    assert Redactor("", [prompt])(said) == "no: b'[prompt]'"
    assert Redactor("", [prompt])(said[:-2]) == "no: b'[prompt]"
    assert Redactor("", ["\xc9\xe9" * 20])(ascii("\xc9\xe9" * 12)) == "'[prompt]'"


@pytest.mark.parametrize("offset", range(9))
def test_the_place_in_the_prompt_makes_no_difference(offset: int) -> None:
    """A run of exactly 16 characters is found at every offset in the prompt. A run of 15 characters stays."""
    prompt = "." * offset + "abcdefghijklmnop" + "." * 9
    assert Redactor("", [prompt])("<abcdefghijklmnop>") == "<[prompt]>"
    assert Redactor("", [prompt])("<abcdefghijklmno>") == "<abcdefghijklmno>"
    assert len("abcdefghijklmnop") == MATCH_MIN


@pytest.mark.parametrize("quoted", ["\\u0041 fever; fe", "\\\\u0041 fever; fe", "\\U0041 FEVER; FE"])
def test_an_escape_that_a_run_begins_with_counts_as_it_is_written(quoted: str) -> None:
    """An escape at the start of a run counts with all its characters, since the prompt may contain the escape itself.

    The host may have escaped it again.
    """
    assert Redactor("", ["note \\u0041 fever; fever at noon"])(f"bad: '{quoted}'") == "bad: '[prompt]'"
    assert Redactor("", ["note A fever; fever at noon"])("bad: 'A fever; fe'") == "bad: 'A fever; fe'"


def test_a_short_text_goes_whole() -> None:
    """A short text is replaced as a whole if it has at least 12 characters. Its parts are shorter than 16."""
    assert WHOLE_MIN == 12
    assert Redactor("", ["Jane Roe 1970"])("no: JANE  ROE 1970.") == "no: [prompt]."
    assert Redactor("", ["Jane Roe 19"])("no: Jane Roe 19.") == "no: Jane Roe 19."


@pytest.mark.parametrize("secret", [KEY, PROMPT, "the system prompt of the house"])
def test_a_secret_that_a_bound_has_cut_goes_too(redact: Redactor, secret: str) -> None:
    """A secret that was truncated is replaced too, at every length at which it could be recognised."""
    for n in range(TAIL_MIN + 2, len(secret)):
        assert secret[:TAIL_MIN] not in redact("text " + secret[:n])


def test_a_text_beyond_the_bound_is_dropped() -> None:
    """Text beyond the length that was searched is not shown."""
    text = "x" * (LOOKED_AT - 4) + "the secret of the house"
    assert Redactor("")(text) == "x" * (LOOKED_AT - 4) + "the "


# --- what stays -------------------------------------------------------------------------------------------------


def test_what_is_no_secret_stays(redact: Redactor) -> None:
    """A text of less than 12 characters in the prompt is not replaced: it may be a word of any error."""
    assert len("short") < WHOLE_MIN
    assert redact("a short error: overloaded") == "a short error: overloaded"
    assert Redactor("")("sk-") == "sk-"


#: A long prompt of ordinary English.
LONG = (Path(__file__).parents[2] / "LICENSE").read_text()


@pytest.mark.parametrize("text", [text for _, _, text in REFUSALS])
def test_an_ordinary_error_stays_readable(text: str) -> None:
    """The sentences of known refusals stay readable, with a prompt of more than 10,000 characters."""
    assert len(LONG) > 10_000
    assert Redactor(KEY, [LONG])(text) == text


@needs_recordings
def test_recorded_errors_stay_readable() -> None:
    """Every recorded error body stays readable with the same prompt."""
    redact = Redactor(KEY, [LONG])
    said = []
    for path in sorted((SHARED / "recordings/_errors").glob("*.json")):
        status = json.loads(path.read_bytes())["status"]
        said += body_error(status, path.with_suffix(".body").read_bytes(), {})
    assert len([text for text in said if text]) > 30
    assert [text for text in said if redact(text) != text] == []


def test_names_that_the_request_needs_stay_readable() -> None:
    """The model's name and the names of body fields stay readable, even if the prompt contains them.

    They are replaced if more of the prompt is next to them.
    """
    prompt = "Does claude-haiku-4-5-20251001 take max_completion_tokens, and which ones?"
    redact = Redactor("", [prompt], spare=["claude-haiku-4-5-20251001", "max_completion_tokens"])
    for text in ("model: claude-haiku-4-5-20251001 not found", "Unsupported parameter: 'max_completion_tokens'"):
        assert redact(text) == text
    assert redact("'Does claude-haiku-4-5-20251001 take' is odd") == "'[prompt]' is odd"
    assert Redactor("", [prompt])("model: claude-haiku-4-5-20251001 not found") == "model: [prompt] not found"


# --- what the caller wrote --------------------------------------------------------------------------------------

SECRET = "Patient Jane Roe, born 1970"
PLACES: list[dict[str, Any]] = [
    {"prompt": SECRET},
    {"prompt": [{"role": "user", "content": [{"type": "text", "text": SECRET}]}]},
    {"prompt": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": SECRET}]}]}]},
    {"prompt": [{"role": "user", "content": [{"type": "tool_use", "input": {SECRET: 1}}]}]},
    {"prompt": [{"role": "user", "content": "x", "name": SECRET}]},
    {"system": SECRET},
    {"prefill": SECRET},
    {"stop": SECRET},
    {"tools": [{"name": "f", "description": SECRET}]},
    {"tools": [{"type": "function", "function": {"parameters": {"properties": {SECRET: {"type": "string"}}}}}]},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": [SECRET]}}}},
    {"extra": {"metadata": {"user": SECRET}}},
    {"extra": {"logit_bias": {SECRET: 1}}},
    {"thinking": {"note": SECRET}},
]


@pytest.mark.parametrize("options", PLACES, ids=lambda options: next(iter(options)))
def test_everything_that_the_caller_wrote_goes(options: dict[str, Any]) -> None:
    """Everything that the caller wrote is replaced, at any depth, and also if it is the name of a field."""
    redact = Redactor("", asked(**options).texts())
    assert redact("Invalid: '...t jane roe, BORN 1970...'") == "Invalid: '...[prompt]...'"


def test_words_of_the_api_are_not_the_caller_s() -> None:
    """Words of the API stay: field names, roles, and the types of messages, parts and tools."""
    options: dict[str, Any] = {
        "prompt": [{"role": "user", "content": [{"type": "web_search_tool_result", "cache_control": {"ttl": "1h"}}]}],
        "tools": [{"type": "web_search_20250305", "name": "f", "input_schema": {"additionalProperties": False}}],
        "extra": {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"},
    }
    redact = Redactor("", asked(**options).texts())
    for text in (
        "messages.0.content.0.web_search_tool_result: bad",
        "tools.0: web_search_20250305 is unknown; additionalProperties",
        "Unsupported: chat_template_kwargs, reasoning_effort, enable_thinking",
    ):
        assert redact(text) == text


def test_a_property_s_name_is_the_caller_s() -> None:
    """A property's name in a schema belongs to the caller, although it is the name of a field."""
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {"insurance_number": {"type": "string"}}}}
    assert written([tool]) == ["f", "insurance_number", "string"]


# --- cost -------------------------------------------------------------------------------------------------------


def cost_s(prompt: str, text: str) -> float:
    redact = Redactor(KEY, [prompt])
    began = time.process_time()
    redact(text)
    return time.process_time() - began


@pytest.mark.perf
@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("a", "a" * 9000),
        ("the words of an ordinary prompt, as they are. ", "the last message must be the user's " * 20),
        ("assistant{} ", "assistant. " * 700),
        ("\\n\\u00e9", "\\u00e9\\n" * 500),
    ],
    ids=["equal", "ordinary", "short-runs", "escapes"],
)
def test_the_cost_is_linear(unit: str, text: str) -> None:
    """Eight times the prompt takes about eight times as long, even if prompt and message share very many runs."""
    small, large = (
        "".join(unit.format(n) for n in range(size // len(unit))) for size in (50_000, 400_000)
    )  # quadratic cost would be 64 times
    base = min(cost_s(small, text) for _ in range(3))
    assert min(cost_s(large, text) for _ in range(2)) < 24 * base + 0.05
