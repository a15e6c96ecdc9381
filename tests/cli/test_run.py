"""`aprefill run` in this process: the exact output, and how errors are reported."""

from __future__ import annotations

import json
import math
import re
import sys
from typing import TYPE_CHECKING

import httpx2
import pytest

import aprefill
from aprefill.cli._output import Output
from aprefill.testing import Script, serve_in_thread

from ..support.targets import Recorder

if TYPE_CHECKING:
    from .conftest import Cli

PELICAN = 'def pelican():\n    return "A large waterbird with a long bill and a throat pouch for catching fish."\n'
ASK = ("a function about a pelican", "--prefill", "def pelican(")
DEMO = ("-m", "demo:eats")


# --- the demo ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo:", "demo:eats", "demo:echoes"])
def test_the_text_and_nothing_else(cli: Cli, name: str) -> None:
    """The output is the bytes of the reply, with the prefill once, for a demo host with each kind of support."""
    done = cli(*ASK, "-m", name)
    assert (done.code, done.out, done.err) == (0, PELICAN.encode(), "")


def test_without_model_and_key_the_demo_answers_and_says_so(cli: Cli) -> None:
    """Without a model and a key `demo:eats` answers. A line on standard error says so, and how to choose a model."""
    done = cli(*ASK)
    assert (done.code, done.out) == (0, PELICAN.encode())
    assert "demo:eats" in done.error
    assert "-m provider:name" in done.error


def test_run_is_the_default_command(cli: Cli) -> None:
    """`run` is the default command, with options before or after the prompt."""
    prompt, *options = *ASK, *DEMO
    lines = [(prompt, *options), ("run", prompt, *options), (*options, prompt), ("run", *options, "--", prompt)]
    for line in lines:
        done = cli(*line)
        assert (done.code, done.out, done.err) == (0, PELICAN.encode(), "")


@pytest.mark.parametrize("word", ["run", "models", "--help", "-5 apples"])
def test_after_two_dashes_everything_is_a_prompt(cli: Cli, word: str) -> None:
    """After `--`, a prompt may be the name of a command or begin with a dash."""
    done = cli("--", word)
    assert done.code == 0
    assert done.out.startswith(b"This is the built-in demo model.")


def test_hide_prefill(cli: Cli) -> None:
    """With `--hide-prefill` only the model's text is written."""
    assert cli(*ASK, *DEMO, "--hide-prefill").out == PELICAN.removeprefix("def pelican(").encode()


def test_a_stop_sequence_and_a_limit(cli: Cli) -> None:
    """`--stop` can be repeated. `--max-tokens` limits the demo's reply."""
    assert cli(*ASK, *DEMO, "--stop", "nowhere", "--stop", "\n").out == b"def pelican():"
    assert cli(*ASK, *DEMO, "--max-tokens", "1").out == b"def pelican():\n  "


# --- the prompt -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stdin", "arguments", "prompt"),
    [
        (b"piped\n", (), "piped"),
        (b"document\r\n\r\n", ("question",), "document\n\nquestion"),
        (b"two\nlines\n", ("question",), "two\nlines\n\nquestion"),
        (b"", ("question",), "question"),
        (b" \n", ("question",), "question"),
        (None, ("question",), "question"),
        ("\ufeff\u00e9".encode(), (), "\u00e9"),
    ],
)
def test_the_prompt(cli: Cli, stdin: bytes | None, arguments: tuple[str, ...], prompt: str) -> None:
    """The prompt is the piped text, a blank line, and the argument; or one of the two. A terminal is never read."""
    with serve_in_thread(Script(text="x")) as server:
        assert cli(*arguments, "-m", "m", "--base-url", server.openai_url, stdin=stdin).code == 0
        assert [exchange.last_user_text for exchange in server.exchanges] == [prompt]


@pytest.mark.parametrize(
    ("stdin", "arguments", "says"),
    [
        (None, (), "no prompt"),
        (b"", (), "no prompt"),
        (b" \n", ("",), "no prompt"),
        (b"\xff", (), "not UTF-8"),
        (None, ("tell", "me"), "put the prompt in quotes"),
        (None, ("x", "--no-such-option"), "put -- before it"),
        (None, ("x", "--max-tokens", "0"), "--max-tokens"),
        (None, ("x", "-t", "warm"), "--temperature"),
        (None, ("x", "--prefill", "\udcff"), "not UTF-8"),
        (None, ("x", "--stop", "\udcff"), "not UTF-8"),
        (None, ("x", "--support", "eaten"), "eats, echoes"),
        (None, ("x", "-m", "openai:m"), "no key for openai in OPENAI_API_KEY; set it in the environment"),
        (None, ("x", "-m", "nobody:m"), "--base-url"),
        (None, ("x", "-m", "m", "--base-url", "http://example.com"), "--base-url is plain http"),
        (None, ("x", "-m", "m", "--base-url", "http://vllm:8000/v1"), "or pass --allow-http if you trust the network"),
        (None, ("x", "-m", "m", "--base-url", "http://a@vllm", "--allow-http"), "--base-url holds user info"),
        (None, ("x", "-m", "gpt-4o"), 'did you mean "openai:gpt-4o"?'),
        (None, ("x", "-m", "anthropic/claude-haiku-4-5"), 'did you mean "anthropic:claude-haiku-4-5"?'),
        (None, ("x", "--base-url", "http://localhost:1"), "-m NAME"),
        (None, ("x", "-m", "anthropic:m", "--api", "chat"), "messages"),
        (None, ("x", "--model"), "--model"),
        (None, ("models", "nobody"), "the known providers are anthropic"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    cli: Cli, stdin: bytes | None, arguments: tuple[str, ...], says: str
) -> None:
    """Wrong usage writes nothing to standard output, and one line to standard error that says what to do."""
    done = cli(*arguments, stdin=stdin)
    assert (done.code, done.out) == (2, b"")
    assert says in done.error


def test_plain_http_to_another_machine(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http to another machine needs `--allow-http`. The request is recorded here instead of being sent."""
    recorder = Recorder()

    async def handle(self: object, request: httpx2.Request) -> object:
        return recorder(request)

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)
    where = ("hi", "-m", "vllm:m", "--base-url", "http://192.168.1.20:8000/v1")
    assert cli(*where).code == 2
    assert recorder.urls == []
    done = cli(*where, "--allow-http")
    assert (done.code, done.out, done.err) == (0, b"hello", "")
    assert recorder.urls == ["http://192.168.1.20:8000/v1/chat/completions"]


def test_a_base_url_of_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OPENAI_BASE_URL` needs a model, as `--base-url` does, and is then used."""
    with serve_in_thread(Script(text="hello")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
        assert "OPENAI_BASE_URL is set; pass -m openai:NAME" in cli("hi").error
        assert cli("hi", "-m", "openai:m").out == b"hello"
        assert len(server.exchanges) == 1
        assert cli("hi", "-m", "demo:").code == 0
    monkeypatch.setenv("OPENAI_BASE_URL", "http://vllm:8000/v1")
    assert "OPENAI_BASE_URL is plain http to vllm" in cli("hi", "-m", "openai:m").error


def test_a_key_without_a_model_is_not_answered_by_the_demo(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a key is set but no model, the demo does not answer. The error says how to name a model."""
    for variable, says in [
        ("ANTHROPIC_API_KEY", "-m anthropic:claude-haiku-4-5"),
        ("ANTHROPIC_AUTH_TOKEN", "-m anthropic:claude-haiku-4-5"),
        ("OPENAI_API_KEY", "-m openai:NAME"),
        ("APREFILL_API_KEY", "-m NAME --base-url URL"),
    ]:
        with monkeypatch.context() as patch:
            patch.setenv(variable, "sk-secret")
            done = cli("x")
            assert (done.code, done.out) == (2, b"")
            assert variable in done.error
            assert says in done.error
            assert "secret" not in done.err
            patch.setenv("APREFILL_MODEL", "demo:")
            assert cli("x").code == 0


def test_the_example_is_a_model_that_takes_a_prefill(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model in the example accepts a prefill, also if the provider's other models come first in the table."""
    rows = aprefill.support_table()
    monkeypatch.setattr(aprefill, "support_table", lambda: rows[::-1])
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    example = re.search(r"-m anthropic:(\S+),", cli("x").error)
    assert example
    assert [row.native for row in rows if example[1] in row.models] == [True]


# --- against a host ---------------------------------------------------------------------------------------------


def test_what_is_sent(cli: Cli) -> None:
    """Every option is sent to the host, with both protocols."""
    line = (
        "question", "--prefill", '["', "-s", "be brief", "--stop", "END", "--max-tokens", "7", "-t", "0.5",
        "-m", "m", "--support", "eats",
    )  # fmt: skip
    with serve_in_thread(Script(text='a"]')) as server:
        for wire in (("--base-url", server.openai_url), ("--base-url", server.url, "--api", "messages")):
            done = cli(*line, *wire)
            assert (done.code, done.out, done.err) == (0, b'["a"]', "")
        chat, messages = (exchange.json for exchange in server.exchanges)
    assert chat["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "question"},
        {"role": "assistant", "content": '["'},
    ]
    assert (chat["stop"], chat["max_tokens"], chat["temperature"]) == (["END"], 7, 0.5)
    assert messages["system"] == "be brief"
    assert (messages["stop_sequences"], messages["max_tokens"], messages["temperature"]) == (["END"], 7, 0.5)


def test_strict(cli: Cli) -> None:
    """A host with `--support echoes` that does not repeat the prefill is an error only with `--strict`."""
    line = ("q", "--prefill", "[", "-m", "m", "--support", "echoes", "--base-url")
    with serve_in_thread(Script(text="a]", prefill="ignores")) as server:
        assert cli(*line, server.openai_url).out == b"[a]"
        done = cli(*line, server.openai_url, "--strict")
        assert (done.code, done.out) == (1, b"")
        assert "did not begin its reply with the prefill" in done.error


SECRET = "sk-very-secret-0123456789"

FAILURES: dict[str, tuple[Script, bytes, str]] = {
    "401": (Script(status=401, error=("invalid", f"wrong key {SECRET}")), b"", "check the key"),
    "404": (Script(status=404), b"", "--base-url"),
    "429": (Script(status=429, retry_after=100), b"", "wait 100 s"),
    "500": (Script(status=500), b"", "try again later"),
    "redirect": (Script(redirect="https://example.com/"), b"", "redirect"),
    "a page": (Script(body=b"<html>", content_type="text/html"), b"", "check --base-url and --api"),
    "no answer": (Script(hang_up=True), b"", "check the host"),
    "cut": (Script(text="Alabama", no_end=True), b"[Alabama", "--prefill"),
    "error inside": (
        Script(text="Alabama", error_event=("overloaded", "busy\x1b[31m\nnow")),
        b"[Alabama",
        "busy\\x1b[31m now",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_an_error_is_one_line_and_exit_code_1(cli: Cli, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """An error leaves the text so far, and one line that says what happened and what to do, without the key."""
    script, out, says = FAILURES[case]
    monkeypatch.setenv("APREFILL_API_KEY", SECRET)
    with serve_in_thread(script) as server:
        line = ("q", "--prefill", "[", "-m", "m", "--support", "eats", "--base-url", server.openai_url)
        done = cli(*line)
        assert (done.code, done.out) == (1, out)
        assert says in done.error
        assert SECRET not in done.err
        as_json = cli(*line, "--json")
        assert as_json.code == 1
        failure = json.loads(as_json.out)
        assert failure["text_so_far"] == out.decode()
        assert set(failure) == {"error", "text_so_far"}
        assert failure["error"]["type"] in {
            "StatusError", "ProtocolError", "ConnectFailed", "Truncated"
        }  # fmt: skip
        assert says in " ".join(failure["error"]["message"].replace("\x1b[31m", "").split())
        assert SECRET not in as_json.out.decode() + as_json.err
        assert {x.headers["authorization"] for x in server.exchanges} == {f"Bearer {SECRET}"}


# --- one object -------------------------------------------------------------------------------------------------


def test_json(cli: Cli) -> None:
    """`--json` writes one object at the end. Its `text` is the text that a plain run prints."""
    done = cli(*ASK, "-m", "demo:echoes", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.out.count(b"\n") == 1
    found = json.loads(done.out)
    timing = found.pop("timing")
    assert found == {
        "text": PELICAN,
        "verdict": "echoed",
        "mode": "native",
        "support": "echoes",
        "model": "demo:echoes",
        "attempts": [{"mode": "native", "status": 200, "error": "", "waited_s": 0.0}],
        "usage": {
            "input_tokens": 6,
            "output_tokens": math.ceil(len(PELICAN) / 5),
            "cache_read_tokens": None,
            "cache_write_tokens": None,
            "reasoning_tokens": None,
            "echo_tokens": None,
        },
        "stop_reason": "end",
        "stop_sequence": None,
        "message": {"role": "assistant", "content": PELICAN},
    }
    assert set(timing) == {"accepted_s", "first_token_s", "first_text_s", "held_s", "total_s"}
    assert all(isinstance(seconds, float) for seconds in timing.values())


def test_json_of_a_hidden_prefill(cli: Cli) -> None:
    """With `--hide-prefill`, `text` is what a plain run prints, and `message` has the whole turn."""
    found = json.loads(cli(*ASK, *DEMO, "--json", "--hide-prefill").out)
    assert found["text"] == PELICAN.removeprefix("def pelican(")
    assert found["message"]["content"] == PELICAN


def test_json_is_fit_for_a_terminal(cli: Cli) -> None:
    """In JSON every control character is escaped and other characters are not. The parsed text is unchanged."""
    text = "\u00e9\x1b]52;c;eA==\x07\x9b31m\x7f\u202e"
    with serve_in_thread(Script(text=text)) as server:
        done = cli("q", "-m", "m", "--base-url", server.openai_url, "--json")
    shown = done.out.decode()
    assert json.loads(shown)["text"] == text
    assert "\u00e9" in shown
    assert all(char == "\n" or (char.isprintable() and char != "\u202e") for char in shown)


def test_timing_goes_to_standard_error(cli: Cli) -> None:
    """`--timing` writes one line in milliseconds to standard error, before the error if there is one."""
    done = cli(*ASK, *DEMO, "--timing")
    assert done.out == PELICAN.encode()
    words = [part.rpartition(" ")[0].rpartition(" ")[0] for part in done.error.split(", ")]
    assert words == ["accepted", "first token", "held", "first text", "total"]
    with serve_in_thread(Script(status=500)) as server:
        done = cli("q", "-m", "m", "--base-url", server.openai_url, "--timing")
    times, error = done.err.splitlines()
    assert times.startswith("aprefill: accepted -, first token -, held -, first text -, total ")
    assert "HTTP 500" in error


# --- on a terminal ----------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_line_end(cli: Cli) -> None:
    """On a terminal a line end is added if the text has none."""
    assert cli(*ASK, *DEMO, screen=True).out == PELICAN.encode()
    assert cli(*ASK, *DEMO, "--stop", "\n", screen=True).out == b"def pelican():\n"


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_terminal_gets_no_escape_sequences_and_a_pipe_gets_them_all(cli: Cli, size: int) -> None:
    """A terminal gets no escape sequence, however the host cuts the text. A pipe gets the text unchanged."""
    text = "one \x1b]52;c;ZXZpbA==\x07two\x1b[2J \x9b31mthree\r\n"
    with serve_in_thread(Script(text=text, cuts=size)) as server:
        line = ("q", "-m", "m", "--base-url", server.openai_url)
        assert cli(*line).out == text.encode()
        assert cli(*line, screen=True).out == b"one two three\n"


def test_an_error_begins_a_new_line(cli: Cli) -> None:
    """On a terminal the line of the text is ended before an error is written."""
    with serve_in_thread(Script(text="Alabama", no_end=True)) as server:
        done = cli("q", "-m", "m", "--base-url", server.openai_url, screen=True)
    assert (done.code, done.out) == (1, b"Alabama\n")


def test_standard_error_may_be_closed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """If standard error is closed, the note about the demo is dropped. It does not go to standard output."""
    monkeypatch.setattr(sys, "stderr", None)
    assert cli(*ASK).out == PELICAN.encode()


# --- help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [("--help",), ("-h",), ("run", "--help"), ("a prompt", "--help")])
def test_help_explains_run(cli: Cli, line: tuple[str, ...]) -> None:
    """`--help` and `-h` show the options of `run`, also without the name of the command."""
    done = cli(*line)
    assert (done.code, done.err) == (0, "")
    for option in (
        "--model", "--prefill", "--system", "--stop", "--max-tokens", "--temperature", "--hide-prefill", "--strict",
        "--json", "--timing", "--base-url", "--api", "--support",
    ):  # fmt: skip
        assert option in done.out.decode()
    assert "--key" not in done.out.decode()


def test_version(cli: Cli) -> None:
    """`--version` prints the version of the package."""
    assert cli("--version").out.decode() == f"aprefill {aprefill.__version__}\n"


def test_ctrl_c_just_before_a_write(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """If Ctrl-C was received just before a write, nothing is written. A full pipe could block the write forever."""
    abandoned: list[object] = []
    monkeypatch.setattr("aprefill.cli._output.abandon", abandoned.append)
    output = Output()
    output.write("one", interrupted=lambda: 0)
    assert abandoned == []
    with pytest.raises(KeyboardInterrupt):
        output.write("two", interrupted=lambda: 1)
    assert abandoned == [sys.stdout]
    assert capfdbinary.readouterr().out == b"one"
