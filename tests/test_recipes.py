"""docs/recipes.md: each recipe does what the page says. Controls show that the checks find a wrong recipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

import aprefill
from aprefill import StatusError
from aprefill._engine.connection import live
from aprefill.testing import Received, Script, ToolCall, serve_in_thread

from .support.pages import ROOT, changed, lead_to, recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aprefill.testing import Scripts, Server

WRONG = pytest.raises(AssertionError)


class Hosts:
    """Starts model hosts on loopback, and makes the recipes' providers use them."""

    def __init__(self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stack = stack
        self._monkeypatch = monkeypatch
        self._urls: dict[str, str] = {}

    def play(self, *scripts: Script, of: Callable[[Received], Script] | None = None) -> Server:
        """Start one host, for Anthropic and OpenAI."""
        played: Scripts = of or scripts
        server = self._stack.enter_context(serve_in_thread(played))
        self._lead(anthropic=server.url, openai=server.openai_url)
        return server

    def play_mistral(self, *scripts: Script) -> Server:
        """Start another host, for Mistral."""
        server = self._stack.enter_context(serve_in_thread(scripts))
        self._lead(mistral=server.openai_url)
        return server

    def _lead(self, **urls: str) -> None:
        self._urls |= urls
        lead_to(self._urls, self._monkeypatch)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    with ExitStack() as stack:
        yield Hosts(stack, monkeypatch)


def run(code: str) -> dict[str, Any]:
    """Run a recipe as a program, and return the names that it defines."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "recipe", "exec"), space)
    return space


def only(heading: str) -> str:
    (code,) = recipe(heading)
    return code


def test_every_recipe_has_a_test() -> None:
    """Each Python block of the page is under a heading that a test file names."""
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    tests = [Path(__file__), Path(__file__).parent / "web" / "test_chat_recipe.py"]
    sources = "".join(path.read_text(encoding="utf-8") for path in tests)
    assert len(headings) == 10
    assert [one for one in headings if f'"{one}"' not in sources] == []
    assert page.count("```python\n") == sum(len(recipe(one)) for one in headings)
    assert [f"- [{one}](#{re.sub('[^a-z0-9 ]', '', one.lower()).replace(' ', '-')})" for one in headings] == [
        line for line in page.splitlines() if line.startswith("- [") and "](#" in line
    ]


# --- several turns --------------------------------------------------------------------------------------------

TURNS = only("Several turns")
CITY = {"role": "user", "content": "Name a city in Norway."}
PEOPLE = {"role": "user", "content": "How many people live there?"}
CHUNK = 'print(chunk, end="", flush=True)'


def second_request(hosts: Hosts, code: str, *scripts: Script) -> Any:
    server = hosts.play(*scripts)
    run(code)
    return server.exchanges[-1].messages


def check_turns(hosts: Hosts, code: str, kept: str, *scripts: Script) -> None:
    answer = [{"role": "assistant", "content": kept}] if kept else []
    question = [CITY] if kept else []
    assert second_request(hosts, code, *scripts) == [*question, *answer, PEOPLE]


OSLO, MANY = Script(text="Oslo."), Script(text="About 700,000.")


def test_the_second_turn_holds_the_first(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """The second request contains the first question and its answer, and both answers are printed."""
    check_turns(hosts, TURNS, "Oslo.", OSLO, MANY)
    assert capsys.readouterr().out == "Oslo.\nAbout 700,000.\n"
    with WRONG:
        check_turns(hosts, changed(TURNS, "messages.append(reply.message)", "pass"), "Oslo.", OSLO, MANY)


def test_a_turn_that_was_cut_keeps_its_text(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """If a reply is cut, the text that was shown becomes the assistant's turn."""
    cut = Script(text="Oslo, the", cuts=5, no_end=True)
    check_turns(hosts, TURNS, "Oslo, the", cut, MANY)
    assert capsys.readouterr().out == "Oslo, the [Truncated]\nAbout 700,000.\n"
    with WRONG:
        check_turns(hosts, changed(TURNS, "if reply.text_so_far:", "if reply.stop_reason:"), "Oslo, the", cut, MANY)


def test_a_turn_that_was_left_keeps_its_text(hosts: Hosts) -> None:
    """If a loop is left after its first chunk, that chunk becomes the assistant's turn."""
    left = changed(TURNS, CHUNK, "break")
    check_turns(hosts, left, "Oslo,", Script(text="Oslo, the capital", cuts=5), MANY)
    with WRONG:
        check_turns(hosts, TURNS, "Oslo,", Script(text="Oslo, the capital", cuts=5), MANY)


def test_a_turn_without_text_is_left_out(hosts: Hosts) -> None:
    """A failed request adds no turn, and its question is removed."""
    refused = Script(status=400)
    check_turns(hosts, TURNS, "", refused, MANY)
    with WRONG:
        check_turns(hosts, changed(TURNS, "if reply.text_so_far:", "if True:"), "", refused, MANY)


def test_the_prefill_is_in_the_turn(hosts: Hosts) -> None:
    """`reply.message` begins with the prefill, and the next request contains the prefill once."""
    code = changed(
        TURNS, "session.stream(messages)", 'session.stream(messages, prefill="Oslo" if len(messages) == 1 else "")'
    )
    check_turns(hosts, code, "Oslo.", Script(text="."), MANY)
    with WRONG:
        check_turns(hosts, TURNS, "Oslo.", Script(text="."), MANY)


# --- tools ----------------------------------------------------------------------------------------------------

TOOLS = only("Tools: one loop, two providers")
SUNNY = Script(text="It is sunny.")


def check_tools(hosts: Hosts, code: str, call: ToolCall, result: str) -> str:
    """Check that the loop works on both protocols, and that each second request contains the call and its result."""
    asks = Script(text="I look.", tools=[call])
    server = hosts.play(asks, SUNNY, asks, SUNNY)
    run(code)
    claude, claude_again, gpt, gpt_again = server.exchanges
    assert (claude.path, gpt.path) == ("/v1/messages", "/v1/chat/completions")
    assert [tool["name"] for tool in claude.json["tools"]] == ["weather"]
    assert claude.json["tools"][0]["input_schema"]["required"] == ["city"]
    assert [tool["function"]["name"] for tool in gpt.json["tools"]] == ["weather"]
    assert gpt.json["tools"][0]["function"]["parameters"] == claude.json["tools"][0]["input_schema"]

    assert (len(claude_again.messages), len(gpt_again.messages)) == (3, 3)
    question, turn, answer = claude_again.messages
    assert question == {"role": "user", "content": "What is the weather in Oslo?"}
    use = turn["content"][-1]
    assert (turn["role"], use["type"], use["name"], use["input"]) == (
        "assistant",
        "tool_use",
        call.name,
        call.arguments,
    )
    block = {"type": "tool_result", "tool_use_id": use["id"], "content": result}
    assert answer == {"role": "user", "content": [block]}

    question, turn, answer = gpt_again.messages
    (called,) = turn["tool_calls"]
    assert called["function"]["name"] == call.name
    assert json.loads(called["function"]["arguments"]) == call.arguments
    assert answer == {"role": "tool", "tool_call_id": called["id"], "content": result}
    return result


IN_OSLO = ToolCall(name="weather", arguments={"city": "Oslo"})


def test_one_loop_calls_the_tool_on_both_protocols(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """The function's result is sent back in each protocol's form, and the answer is printed."""
    check_tools(hosts, TOOLS, IN_OSLO, "18 degrees and sunny in Oslo")
    assert capsys.readouterr().out == "I look.It is sunny.\n" * 2


@pytest.mark.parametrize(
    ("line", "by"),
    [
        ("messages += [reply.message, *result_turns(api, results)]", "messages += result_turns(api, results)"),
        ('"tool_use_id": id', '"tool_use_id": "1"'),
        ('"tool_call_id": id', '"tool_call_id": "1"'),
        ("call[part] += getattr(event, part)", "call[part] = call[part] or getattr(event, part)[:4]"),
        ('"input_schema": SCHEMA', '"input_schema": {"required": []}'),
    ],
)
def test_control_tools(line: str, by: str, hosts: Hosts) -> None:
    """Control: a loop that loses the turn, the call's id, its arguments or the schema is found."""
    with WRONG:
        check_tools(hosts, changed(TOOLS, line, by), IN_OSLO, "18 degrees and sunny in Oslo")


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (ToolCall(name="stocks", arguments={}), "'stocks'"),
        (ToolCall(name="weather", arguments={"town": "Oslo"}), "weather() got an unexpected keyword argument 'town'"),
    ],
)
def test_a_tool_that_fails_is_told_to_the_model(call: ToolCall, error: str, hosts: Hosts) -> None:
    """An unknown tool and wrong arguments give a result with the error."""
    check_tools(hosts, TOOLS, call, f"the call failed: {error}")
    with WRONG:
        check_tools(hosts, changed(TOOLS, "the call failed: {error}", ""), call, f"the call failed: {error}")


def test_several_calls_in_one_turn(hosts: Hosts) -> None:
    """Each call has its result: all in one turn for Anthropic, and one turn per result for OpenAI."""
    both = Script(tools=[IN_OSLO, ToolCall(name="weather", arguments={"city": "Bergen"})])

    def check(code: str) -> None:
        server = hosts.play(both, SUNNY, both, SUNNY)
        run(code)
        _, claude, _, gpt = server.exchanges
        results = ["18 degrees and sunny in Oslo", "18 degrees and sunny in Bergen"]
        assert [block["content"] for block in claude.messages[-1]["content"]] == results
        assert [message["content"] for message in gpt.messages[-2:]] == results

    check(TOOLS)
    with WRONG:
        check(changed(TOOLS, "setdefault(event.index", "setdefault(0"))


def test_a_model_that_calls_for_ever(hosts: Hosts) -> None:
    """If the model calls tools without end, the loop ends after 8 rounds."""
    server = hosts.play(Script(tools=[IN_OSLO]))
    with pytest.raises(RuntimeError, match="still called tools after 8 rounds"):
        run(TOOLS)
    assert len(server.exchanges) == 8


# --- structured output ----------------------------------------------------------------------------------------

STRUCTURED = only("Structured output with pydantic")
WHOLE_CITY = '"name": "Oslo", "country": "Norway", "population": 717710}'
NO_NUMBER = '"name": "Oslo", "country": "Norway", "population": "many"}'


def check_structured(hosts: Hosts, code: str, out: Callable[[], str], *texts: str) -> Any:
    server = hosts.play(*(Script(text=text) for text in texts))
    run(code)
    assert out() == "Oslo in Norway has 717710 inhabitants.\n"
    assert len(server.exchanges) == len(texts)
    assert {exchange.prefill for exchange in server.exchanges} == {"{"}
    return server.exchanges[-1].messages


def test_a_reply_that_fits_is_asked_for_once(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """If the reply is valid, there is one request, and the prefill and the reply are one JSON object."""
    out = lambda: capsys.readouterr().out  # noqa: E731
    check_structured(hosts, STRUCTURED, out, WHOLE_CITY)
    with pytest.raises(ValidationError):
        check_structured(hosts, changed(STRUCTURED, 'prefill="{"', 'prefill=""'), out, WHOLE_CITY)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (NO_NUMBER, "valid integer"),
        (WHOLE_CITY + "\nI hope this helps!", "trailing characters"),
        ('"name": "Oslo"', "EOF"),
    ],
    ids=["type", "chatter", "cut"],
)
def test_one_more_try_has_the_error(wrong: str, told: str, hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """If the reply is invalid, the second request contains the wrong object and pydantic's error."""

    def check(code: str) -> None:
        messages = check_structured(hosts, code, lambda: capsys.readouterr().out, wrong, WHOLE_CITY)
        question, turn, correction = messages[:3]
        assert '"population"' in question["content"]
        assert turn == {"role": "assistant", "content": "{" + wrong}
        assert told in correction["content"]

    check(STRUCTURED)
    with WRONG:
        check(changed(STRUCTURED, "valid:\\n{error}\\n", "valid.\\n"))
    with pytest.raises(ValidationError):
        check(changed(STRUCTURED, "tries=2", "tries=1"))


@pytest.mark.parametrize(("echo", "requests"), [("fence", 1), ("chatter+fence", 2)])
def test_a_model_that_takes_no_prefill(
    echo: Any, requests: int, hosts: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a model that takes no prefill, a code fence is removed.

    A sentence before the fence causes the second request.
    """
    code = changed(STRUCTURED, "claude-haiku-4-5", "claude-opus-4-6")
    wordy = Script(text=WHOLE_CITY, prefill="refuses", asked="obeys", echo=echo)
    plain = Script(text=WHOLE_CITY, asked="obeys")

    def check(code: str) -> None:
        server = hosts.play(wordy, plain)
        run(code)
        assert capsys.readouterr().out == "Oslo in Norway has 717710 inhabitants.\n"
        assert len(server.exchanges) == requests

    check(code)
    with pytest.raises(ValidationError):
        check(changed(code, 'prefill="{"', 'prefill=""'))


def test_two_wrong_replies_are_an_error(hosts: Hosts) -> None:
    """Two invalid replies raise pydantic's error after exactly two requests."""
    server = hosts.play(Script(text=NO_NUMBER))
    with pytest.raises(ValidationError):
        run(STRUCTURED)
    assert len(server.exchanges) == 2


# --- partial objects ------------------------------------------------------------------------------------------

PARTIAL = only("Partial objects while streaming")
PIECES = ['"name": "Os', 'lo", "population": 7', '00, "sights": ["Fro', 'gner", "Munch"', "]}"]
SHOWN = """\
name: Oslo
population: 7
population: 700
sights: []
sights: ['Frogner', 'Munch']
"""


def test_fields_are_shown_as_they_come(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """A string is shown when it is complete, a number and a list as they grow."""

    def check(code: str) -> None:
        hosts.play(Script(cuts=PIECES, pace_s=0.03))
        run(code)
        assert capsys.readouterr().out == SHOWN

    code = changed(PARTIAL, ", coalesce=True", "")  # a busy machine joins reads
    check(code)
    with WRONG:
        check(changed(code, "if shown.get(name) != value:", "if True:"))
    with WRONG:
        check(changed(code, "allow_partial=True", 'allow_partial="trailing-strings"'))
    with pytest.raises(ValueError, match="EOF"):
        check(changed(code, "allow_partial=True", "allow_partial=False"))


def test_partial_objects_as_printed(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """The block as printed, with one step per read: the last state of each field is right."""
    hosts.play(Script(cuts=PIECES))
    run(PARTIAL)
    last = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert last == {"name": "Oslo", "population": "700", "sights": "['Frogner', 'Munch']"}


# --- a batch --------------------------------------------------------------------------------------------------

BATCH = only("A batch of 500 with a progress bar")


def check_batch(hosts: Hosts, code: str, capsys: pytest.CaptureFixture[str], count: int = 500) -> None:
    at_once: list[int] = []

    def reply_to(received: Received) -> Script:
        at_once.append(len(live))
        number = number_in(received.last_user_text)
        return Script(status=400) if number % 100 == 7 else Script(text=f"number {number}", first_token_s=0.005)

    server = hosts.play(of=reply_to)
    # makes the results visible to the test
    code = changed(code, "    failed = [", "    globals()['kept'] = results\n    failed = [")
    space = run(changed(code, "range(500)", f"range({count})"))
    printed = capsys.readouterr()
    errors = len(range(7, count, 100))
    assert printed.out == f"{count - errors} replies, {errors} errors\n"
    assert re.findall(r"(\d+)%\|[^\r]*?(\d+/\d+)", printed.err)[-1] == ("100", f"{count}/{count}")
    assert len(server.exchanges) == count
    assert max(at_once) == 20
    for number, result in enumerate(space["kept"]):
        if number % 100 == 7:
            assert isinstance(result, StatusError)
        else:
            assert result == f"number {number}"


#: Enough replies for a control.
FEW = 60


def number_in(prompt: str) -> int:
    return int(re.findall(r"\d+", prompt)[0])


@pytest.fixture
def _bar_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the progress bar's thread, because it would outlive its test, and other tests count threads."""
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)


@pytest.mark.usefixtures("_bar_without_a_thread")
def test_a_batch_of_500(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch gives 500 results in order, five of them errors, with at most 20 at the same time, and a full bar."""
    check_batch(hosts, BATCH, capsys)


@pytest.mark.usefixtures("_bar_without_a_thread")
@pytest.mark.parametrize(
    ("line", "by"),
    [
        ("AT_ONCE = 20", "AT_ONCE = 30"),
        ("progress.update()", "number or progress.update()"),
        ("results[number] = await", "results[-1] = await"),
    ],
    ids=["more at once", "a bar that stands", "results lost"],
)
def test_control_batch(line: str, by: str, hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """Control: too many replies at the same time, a bar that does not move and misplaced results are found."""
    with WRONG:
        check_batch(hosts, changed(BATCH, line, by), capsys, FEW)


@pytest.mark.usefixtures("_bar_without_a_thread")
def test_control_one_error_would_end_the_batch(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """Control: without its `except` the first error cancels all other replies."""
    code = changed(BATCH, "except ProviderError as error:", "except KeyError as error:")
    with pytest.RaisesGroup(StatusError):
        check_batch(hosts, code, capsys, FEW)


# --- another provider -----------------------------------------------------------------------------------------

ANOTHER = only("Another provider when one fails")
SEVEN = "one two three four five six seven"
BEGUN, REST = SEVEN[:13], SEVEN[13:]


def check_another(hosts: Hosts, code: str, out: Callable[[], str], failing: Script, begun: str) -> None:
    first = hosts.play(failing)
    second = hosts.play_mistral(Script(text=SEVEN.removeprefix(begun), prefill="echoes"))
    run(code)
    assert out() == SEVEN + "\n"
    assert first.exchanges[-1].prefill == ""
    (asked,) = second.exchanges
    assert asked.prefill == begun


FAILING = {
    "cut": (Script(text=BEGUN, no_end=True), BEGUN),
    "an error in the middle": (Script(text=SEVEN, after=13, error_event=("overloaded_error", "Overloaded")), BEGUN),
    "never accepted": (Script(status=529), ""),
    "no key": (Script(status=401), ""),
}


@pytest.mark.parametrize("name", FAILING)
def test_the_next_provider_goes_on(name: str, hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """The second provider continues exactly where the first has failed, and the text is shown once."""
    failing, begun = FAILING[name]
    check_another(hosts, ANOTHER, lambda: capsys.readouterr().out, failing, begun)


@pytest.mark.parametrize(
    ("line", "by"),
    [
        (", show_from=len(text)", ""),
        ("prefill=text, ", 'prefill="", '),
        ("text = error.text_so_far or text", "pass"),
    ],
)
def test_control_another_provider(line: str, by: str, hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """Control: text that is shown twice, or that begins again, is found."""
    code = changed(ANOTHER, line, by)
    if 'prefill=""' in by:
        code = changed(code, "show_from=len(text)", "show_from=0")
    with WRONG:
        check_another(hosts, code, lambda: capsys.readouterr().out, *FAILING["cut"])


def test_what_came_before_is_kept_over_a_second_failure(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """If the second provider fails without any text, the text of the first is kept."""
    three = 'MODELS = ("mistral:mistral-large-latest", "anthropic:claude-haiku-4-5", "openai:gpt-4.1")'
    code = re.sub(r"^MODELS = .*$", three, ANOTHER, flags=re.MULTILINE)

    def check(code: str) -> None:
        hosts.play_mistral(Script(text=BEGUN, no_end=True))
        last = Script(text=REST, asked="obeys")
        server = hosts.play(of=lambda received: Script(status=529) if "claude" in received.model else last)
        run(code)
        assert capsys.readouterr().out == SEVEN + "\n"
        assert BEGUN in server.exchanges[-1].last_user_text

    check(code)
    with WRONG:
        check(changed(code, "error.text_so_far or text", "error.text_so_far"))


def test_no_provider_is_left(hosts: Hosts) -> None:
    """If no provider is left, the program exits with a message."""
    hosts.play(Script(status=529))
    hosts.play_mistral(Script(status=529))
    with pytest.raises(SystemExit, match="no provider could finish"):
        run(ANOTHER)


# --- stop sequences -------------------------------------------------------------------------------------------

FENCED = only("Stop sequences with a fence")
CODE = "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, n))\n"


def check_fence(hosts: Hosts, code: str, out: Callable[[], str], script: Script) -> Received:
    server = hosts.play(script)
    run(code)
    assert out() == CODE + "\n"
    return server.exchanges[-1]


GOES_ON = Script(text=CODE + "```\nThis function is slow.", asked="obeys")


@pytest.mark.parametrize("model", ["anthropic:claude-haiku-4-5", "anthropic:claude-opus-4-6", "openai:gpt-4.1"])
def test_the_code_alone(model: str, hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """The output has neither the fence nor the sentence after it, with a native and with an emulated prefill."""
    code = changed(FENCED, "anthropic:claude-haiku-4-5", model)
    out = lambda: capsys.readouterr().out  # noqa: E731
    asked = check_fence(hosts, code, out, GOES_ON)
    if "haiku" in model:
        assert (asked.prefill, asked.json["stop_sequences"]) == ("```python", ["```"])
        # the model writes a line end of its own, because the host does not take the one at the end of the prefill
        check_fence(hosts, code, out, Script(text="\n" + CODE + "```"))
    for line in ("show_from=len(FENCE),", 'stop="```",'):
        with pytest.raises(SyntaxError):
            check_fence(hosts, changed(code, line, ""), out, GOES_ON)


def test_code_that_is_not_complete(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """An incomplete program is rejected, even if it compiles."""
    half = Script(text=CODE, stop_reason="max_tokens")
    hosts.play(half)
    with pytest.raises(SystemExit, match="not complete"):
        run(FENCED)
    run(changed(FENCED, "StopReason.MAX_TOKENS", "StopReason.END"))
    assert capsys.readouterr().out == CODE + "\n"


# --- logging --------------------------------------------------------------------------------------------------

LOGGING = only("Logging and metrics")


def process(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a new process, with the tested package."""
    package = str(Path(aprefill.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": package, "NO_COLOR": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


def lines_of(log: str) -> list[str]:
    """Return the log lines of the library and of the recipe, with times, hosts and token counts replaced."""
    lines = [line for line in log.splitlines() if re.match(r"\w+ (aprefill|metrics|root): ", line)]
    alike = [(r"\b\d+\.\d{2,}(e-\d+)?\b", "S"), (r"127\.0\.0\.1", "api.anthropic.com"), (r"tokens=\d+", "tokens=N")]
    for pattern, by in alike:
        lines = [re.sub(pattern, by, line) for line in lines]
    return lines


def logged(hosts: Hosts, code: str, folder: Path, *scripts: Script) -> subprocess.CompletedProcess[str]:
    """Run the recipe in a new process, so that only the recipe configures logging."""
    server = hosts.play(*scripts)
    code = changed(code, "Session(", f'Session(base_url="{server.url}", api_key="secret", model=')
    return process("-c", code, folder=folder)


def check_log(hosts: Hosts, code: str, folder: Path) -> None:
    done = logged(hosts, code, folder, Script(status=529), Script(text='Alabama", "Alaska"]'))
    assert (done.returncode, done.stdout) == (0, '["Alabama", "Alaska"]'), done.stderr
    (printed,) = recipe("Logging and metrics", "text")
    assert lines_of(done.stderr) == lines_of(printed)


def test_the_log_is_what_the_page_shows(hosts: Hosts, tmp_path: Path) -> None:
    """The log is the one on the page, except for times and host names. Each attempt is logged and counted."""
    check_log(hosts, LOGGING, tmp_path)
    with WRONG:
        check_log(hosts, changed(LOGGING, 'logging.getLogger("aprefill").setLevel(logging.DEBUG)', ""), tmp_path)
    with WRONG:
        check_log(hosts, changed(LOGGING, "in reply.attempts:", "in reply.attempts[-1:]:"), tmp_path)


def test_a_reply_that_failed_is_counted_too(hosts: Hosts, tmp_path: Path) -> None:
    """The log of a failed reply has its attempts and its error, but not the key and the prompt."""
    done = logged(hosts, LOGGING, tmp_path, Script(status=400))
    lines = lines_of(done.stderr)
    assert "INFO aprefill: reply 1, request 1: failed: StatusError, HTTP 400" in lines
    assert "INFO metrics: attempt=1 model=claude-haiku-4-5 status=400 outcome=StatusError" in lines
    assert lines[-1].startswith("INFO metrics: first_token_s=None total_s=")
    assert any(line.startswith("ERROR root: no reply: the provider answered with HTTP 400") for line in lines)
    assert "state names" not in done.stderr
    assert "secret" not in done.stderr


# --- a service and its tests ----------------------------------------------------------------------------------

SERVICE, TESTS = recipe("A service and its tests")


def pytest_says(service: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "service.py").write_text(service, encoding="utf-8")
    (folder / "test_service.py").write_text(TESTS, encoding="utf-8")
    # pytest would otherwise look for a configuration in the folders above, and nox keeps its folders in the repository
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    return process("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, folder=folder)


def test_the_services_tests_pass(tmp_path: Path) -> None:
    """The four tests of the service pass as printed."""
    done = pytest_says(SERVICE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^4 passed", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("line", "by", "failing"),
    [
        (", prefill='[\"'", "", "test_a_whole_reply"),
        ("max_tokens=1000", "max_tokens=1000, recovery=Recovery(retries=0)", "test_an_overloaded_host_is_asked_again"),
        ("max_tokens=1000", 'max_tokens=1000, show_when="now"', "test_a_host_that_stays_overloaded"),
    ],
)
def test_control_the_services_tests_find_a_defect(line: str, by: str, failing: str, tmp_path: Path) -> None:
    """Control: a service without a prefill, without retries, or with an early response fails the service's tests."""
    service = changed(SERVICE, line, by).replace("import Session", "import Recovery, Session")
    done = pytest_says(service, tmp_path, "-k", failing)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"FAILED test_service.py::{failing} - assert" in done.stdout
