"""`llm --prefill`: every way to pass a prefill, and what is printed, logged and sent."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("llm", reason="the plugin for LLM needs LLM: nox -s llm")

import llm
import yaml
from llm.parts import StreamEvent, TextPart
from llm.plugins import pm

from aprefill._plan.emulate import BEGIN

from .mocks import FAVE, PULL_REQUEST_473

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Run
    from .mocks import Stage

STATES = '["Alabama", "Alaska"]'
WAYS = [(), ("--no-stream",), ("--async",), ("--async", "--no-stream")]


@pytest.mark.parametrize("command", [("prompt",), ()])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "reply", [['Alabama", "Alaska"]'], ['["Ala', 'bama", "Alaska"]'], ['["', 'Alabama", "Alaska"]']]
)
def test_prompt(run: Run, stage: Stage, command: tuple[str, ...], way: tuple[str, ...], reply: list[str]) -> None:
    """The prefill is printed once and no space is invented, sync or async, streamed or not, repeated or left out."""
    stage.play(*reply)
    assert run(*command, "-m", "mock", "States", "--prefill", '["', *way).stdout == STATES + "\n"
    assert stage.streams == ["--no-stream" not in way]
    assert stage.asked().endswith('\n\n["')
    assert stage.asked().startswith("States\n\n")
    assert stage.prompts[0].prompt.endswith('\n\n["')  # for plugins that do not read the messages


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("chunks", "reply"), PULL_REQUEST_473)
def test_the_cases_of_pull_request_473(run: Run, stage: Stage, chunks: str, reply: str, way: tuple[str, ...]) -> None:
    """The printed text, the logged text and the text in the next turn are the same."""
    stage.play(*chunks.split("|"))
    assert run("-m", "mock", "Which?", "--prefill", FAVE, *way).stdout == reply + "\n"
    assert run("logs", "-r").stdout == reply + "\n"
    run("-c", "Why?")
    assert [part.text for part in stage.prompts[-1].messages[1].parts] == [reply]


@pytest.mark.parametrize("way", WAYS)
def test_hidden(run: Run, stage: Stage, way: tuple[str, ...]) -> None:
    """A hidden prefill is not printed, but the log and the next turn have it, in one text."""
    stage.turns = [['["Alabama", "Alaska"]'], ["More."]]
    assert run("-m", "mock", "States", "--prefill", '["', "--hide-prefill", *way).stdout == 'Alabama", "Alaska"]\n'
    assert run("logs", "-r").stdout == STATES + "\n"
    run("-c", "And?", *way)
    history = [(one.role, [part.text for part in one.parts]) for one in stage.prompts[1].messages]
    assert history == [("user", ["States"]), ("assistant", [STATES]), ("user", ["And?"])]


@pytest.mark.parametrize("way", WAYS)
def test_continued(run: Run, stage: Stage, way: tuple[str, ...]) -> None:
    """With `-c` the next turn has prefill and text as one text, without the request for it.

    It can have another prefill.
    """
    stage.turns = [['Alabama", "Alaska"]'], ["Oslo"], ["Fine."]]
    run("-m", "mock", "States", "--prefill", '["', *way)
    assert run("-c", "A city", "--prefill", "City: ", *way).stdout == "City: Oslo\n"
    assert run("-c", "Thanks", *way).stdout == "Fine.\n"
    history = [(one.role, [part.text for part in one.parts]) for one in stage.prompts[2].messages]
    assert history == [
        ("user", ["States"]),
        ("assistant", [STATES]),
        ("user", ["A city"]),
        ("assistant", ["City: Oslo"]),
        ("user", ["Thanks"]),
    ]


def test_conversation_by_id(run: Run, stage: Stage) -> None:
    """With `--cid` a conversation without a prefill continues with one."""
    stage.turns = [["One."], ["two"]]
    run("-m", "mock", "Count")
    cid = json.loads(run("logs", "--json").output)[0]["conversation_id"]
    assert run("--cid", cid, "On", "--prefill", "One, ").stdout == "One, two\n"
    assert len(json.loads(run("logs", "--json", "-c").output)) == 2


def test_logs(run: Run, stage: Stage) -> None:
    """The log has prefill, mode and verdict, under the model's own name. A turn without a prefill has none of them."""
    stage.turns = [['["Alabama", "Alaska"]'], ["More."]]
    run("-m", "mock", "States", "--prefill", '["')
    run("-c", "And?")
    logged = run("logs", "-n", "2").output
    assert "Model: **mock**" in logged
    assert '## Options\n\n- prefill: ["\n- prefill_mode: emulated\n- prefill_verdict: echoed\n' in logged
    assert BEGIN[:20] not in logged  # the request for the prefill is not part of the prompt
    rows = json.loads(run("logs", "--json", "-n", "2").output)
    assert [row["options_json"] or {} for row in rows] == [
        {"prefill": '["', "prefill_mode": "emulated", "prefill_verdict": "echoed"},
        {},
    ]
    assert [row["prompt"] for row in rows] == ["States", "And?"]
    assert rows[0]["response"] == STATES


def test_json_and_usage(run: Run, stage: Stage) -> None:
    """`--json` and `-u` show what they always show."""
    stage.play('["Alabama", "Alaska"]')
    row = json.loads(run("-m", "mock", "States", "--prefill", '["', "--json").output)[0]
    assert (row["response"], row["input_tokens"]) == (STATES, 3)
    assert "Token usage: 3 input" in run("-m", "mock", "States", "--prefill", '["', "-u").stderr


@pytest.mark.parametrize("hide", [False, True])
def test_template(run: Run, stage: Stage, user_path: Path, hide: bool) -> None:
    """`--save` stores the prefill, `-t` uses it, `--prefill` replaces it, and '' switches it off."""
    hiding = ("--hide-prefill",) if hide else ()
    run("-m", "mock", "Facts about $city", "--prefill", "City: ", *hiding, "--save", "facts")
    saved = yaml.safe_load((user_path / "templates" / "facts.yaml").read_text())
    assert saved["options"] == {"prefill": "City: ", **({"hide_prefill": True} if hide else {})}
    stage.play("Oslo")
    assert run("-t", "facts", "-p", "city", "Oslo").stdout == ("Oslo\n" if hide else "City: Oslo\n")
    assert stage.asked().endswith("\n\nCity: ")
    assert run("-t", "facts", "-p", "city", "Oslo", "--prefill", "C=").stdout == ("Oslo\n" if hide else "C=Oslo\n")
    assert run("-t", "facts", "-p", "city", "Oslo", "--prefill", "").stdout == "Oslo\n"
    assert stage.asked() == "Facts about Oslo"
    assert run("chat", "-t", "facts", "-p", "city", "x", typed="Go\nquit\n").stdout.count("City: Oslo") == (not hide)


def test_template_without_a_prefill(run: Run, stage: Stage, user_path: Path) -> None:
    """The plugin does not change a template without a prefill, and `--prefill` works with it."""
    run("-m", "mock", "Facts about $city", "--save", "facts")
    stage.play("Oslo")
    assert run("-t", "facts", "-p", "city", "Oslo").stdout == "Oslo\n"
    assert type(stage.prompts[0].options).__qualname__ == "_Shared.Options"
    assert run("-t", "facts", "-p", "city", "Oslo", "--prefill", "City: ").stdout == "City: Oslo\n"
    run("-t", "facts", "--hide-prefill", code=1)
    assert "Invalid template" in run("-t", "nope", "x", code=1).output


def test_system_options_fragments_attachments(run: Run, stage: Stage, tmp_path: Path) -> None:
    """A prefill works with these arguments. `max_tokens` counts new text, so room for the repetition is added to it."""
    picture = tmp_path / "a.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    fragment = tmp_path / "f.txt"
    fragment.write_text("A fragment.")
    stage.play('["Alabama"]')
    done = run("-m", "mock", "States", "-s", "Be terse.", "-o", "max_tokens", "50", "-a", str(picture), "-f", str(fragment),
               "--prefill", '["')  # fmt: skip
    assert done.stdout == '["Alabama"]\n'
    prompt = stage.prompts[0]
    assert prompt.system == "Be terse."
    assert prompt.options.max_tokens > 50
    assert prompt.prompt.startswith("A fragment.\nStates\n\n" + BEGIN[:20])
    assert [message.role for message in prompt.messages] == ["system", "user"]
    user = prompt.messages[1].parts
    assert [type(part).__name__ for part in user] == ["TextPart", "AttachmentPart"]
    assert user[0].text.startswith("A fragment.\nStates\n\n" + BEGIN[:20])
    logged = json.loads(run("logs", "--json").output)[0]
    assert logged["options_json"]["max_tokens"] == 50
    assert logged["attachments"][0]["type"] == "image/png"
    # only an attachment
    run("-m", "mock", "-a", str(picture), "--prefill", '["', typed="")
    assert [type(part).__name__ for part in stage.prompts[1].messages[0].parts] == ["AttachmentPart", "TextPart"]


@pytest.mark.parametrize("way", WAYS)
def test_stop_sequences(run: Run, stage: Stage, way: tuple[str, ...]) -> None:
    """A stop sequence that could occur in the repetition or in a fence is applied here, and the reply ends there."""
    stage.play("```python\nprint()\n", "```\nThat", "was", "it")
    done = run("-m", "mock", "Code", "--prefill", "```python", "-o", "stop", "```", *way)
    assert done.stdout == "```python\nprint()\n\n"
    assert stage.prompts[0].options.stop is None
    assert stage.closed == 1
    stage.play("abc def END")
    run("-m", "mock", "Code", "--prefill", "abc", "-o", "stop", "END", *way)
    assert stage.prompts[1].options.stop == "END"


def test_schema(run: Run, stage: Stage) -> None:
    """A schema works with a prefill that its JSON can begin with. If the reply ignores it, there is one error line."""
    stage.play('{"name": ', '"Cleo"}')
    assert (
        run("-m", "mock", "A dog", "--schema", "name, age int", "--prefill", '{"name": ').stdout == '{"name": "Cleo"}\n'
    )
    for whole in (("--schema", "name, age int"), ("-o", "json_object", "1")):
        done = run("-m", "mock", "A dog", *whole, "--prefill", '{"a', code=1)
        assert done.output == (
            "Error: mock did not begin its reply with the prefill, "
            "and the prefill cannot be added to JSON that is complete by itself\n"
        )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("whole", [("--schema", "name, age int"), ("-o", "json_object", "1")])
@pytest.mark.parametrize("prefill", ['["', "Here: ", "```json\n{"])
def test_an_impossible_schema_is_not_paid_for(
    run: Run, stage: Stage, way: tuple[str, ...], whole: tuple[str, ...], prefill: str
) -> None:
    """A schema that no reply with this prefill can match is an error of one line, and nothing is sent or repeated."""
    done = run("-m", "mock", "A dog", *whole, "--prefill", prefill, *way, code=1)
    assert done.stderr.startswith("Error: no reply can begin with this prefill and match ")
    assert done.stderr.count("\n") == 1
    assert prefill not in done.output
    assert stage.prompts == []


@pytest.mark.parametrize("command", [(), ("-o", "stop", "END")])
@pytest.mark.parametrize("way", WAYS)
def test_a_reply_that_did_not_begin_as_asked(
    run: Run, stage: Stage, way: tuple[str, ...], command: tuple[str, ...]
) -> None:
    """A reply that did not begin as asked has one line on stderr, after its usual text. Other replies have none."""
    stage.turns = [["Oslo"], ["City: Oslo"]]
    for given in (("mock", "--prefill", "City: "), ("prefill/mock", "-o", "prefill", "City: ")):
        stage.prompts.clear()
        done = run("-m", *given, "x", *way, *command)
        assert done.stdout == "City: Oslo\n"
        assert done.stderr == "mock did not begin its reply with the prefill, so the prefill was added\n"
        done = run("-m", *given, "x", *way, *command)
        assert (done.stdout, done.stderr) == ("City: Oslo\n", "")


def test_a_chat_whose_reply_did_not_begin_as_asked(run: Run, stage: Stage) -> None:
    """In a chat the note on stderr comes once, with the reply that it is about."""
    stage.turns = [["Oslo"], ["Fine."]]
    done = run("chat", "-m", "mock", "--prefill", "City: ", typed="x\ny\nquit\n")
    assert done.stderr.strip() == "mock did not begin its reply with the prefill, so the prefill was added"
    assert done.output.index("did not begin") < done.output.index("Fine.")


def test_python_prints_nothing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """In Python nothing is printed. Only `prefill_verdict` says that a reply did not begin as asked."""
    stage.play("Oslo")
    response = llm.get_model("prefill/mock").prompt("x", prefill="City: ")
    assert response.text() == "City: Oslo"
    assert response.prompt.options.prefill_verdict == "absent"
    assert capsys.readouterr() == ("", "")


def test_errors_are_one_line(run: Run, stage: Stage) -> None:
    """Each error is one line in LLM's own form, before anything is sent."""
    for arguments, words in (
        (("-o", "prefill_strict", "1", "--prefill", "a"), "does not take a native prefill"),
        (("--hide-prefill",), "--hide-prefill needs --prefill"),
        (("--prefill", "a", "-o", "prefill", "b"), "give one of them"),
        (("--prefill", "```python", "--hide-prefill", "-x"), "-x searches the printed text for a code fence"),
        (("--prefill", "```python", "--hide-prefill", "--xl"), "-x searches the printed text for a code fence"),
    ):
        output = run("-m", "mock", "x", *arguments, code=1).output
        assert output.startswith("Error: ")
        assert words in output
        assert output.count("\n") == 1
    assert stage.prompts == []
    assert "Error: prefill" in run("-m", "mock", "x", "-o", "prefill", "a", code=1).output  # as without the plugin
    assert "Unknown model" in run("-m", "nope", "x", "--prefill", "a", code=1).output


@pytest.mark.parametrize("model_id", ["prefill/mock", "mock"])
def test_a_prefill_among_the_options_can_be_hidden(run: Run, stage: Stage, model_id: str) -> None:
    """`--hide-prefill` also hides a prefill that is passed with `-o prefill`."""
    stage.play('["', 'Alabama"]')
    assert run("-m", model_id, "States", "-o", "prefill", '["', "--hide-prefill").stdout == 'Alabama"]\n'


def test_an_error_of_the_model_is_llms(run: Run, stage: Stage) -> None:
    """An error of the model is printed unchanged."""
    stage.turns = [ValueError("no money")]
    assert run("-m", "mock", "x", "--prefill", "a", code=1).output == "Error: no money\n"


FUNCTIONS = 'def look_up(word: str) -> str:\n    "Look a word up."\n    return word + " means so"\n'


def test_tools(run: Run, stage: Stage) -> None:
    """The answer after the tool's result begins with the prefill, and not the turn that called the tool."""

    stage.calls("look_up", word="pelican")
    stage.turns = [
        [
            StreamEvent(type="tool_call_name", chunk="look_up", tool_call_id="t1"),
            StreamEvent(type="tool_call_args", chunk='{"word": "pelican"}', tool_call_id="t1"),
        ],
        ["Answer: ", "a bird."],
    ]
    done = run("-m", "mock", "What is a pelican?", "--functions", FUNCTIONS, "--prefill", "Answer: ")
    assert done.stdout.strip() == "Answer: a bird."
    assert [message.role for message in stage.prompts[1].messages] == ["user", "assistant", "tool"]
    assert stage.asked(1).endswith("\n\nAnswer: ")
    rows = json.loads(run("logs", "--json", "-n", "0").output)
    assert [row["options_json"]["prefill_verdict"] for row in rows] == ["undecided", "echoed"]


@pytest.mark.parametrize(
    "said", ["I'll look that up.", "Answer: ", "I'll look that up, in as many words as " + "it takes, " * 40]
)
@pytest.mark.parametrize("way", [(), ("--async",), ("--no-stream",)])
def test_words_before_a_tool_call_are_not_the_answer(run: Run, stage: Stage, said: str, way: tuple[str, ...]) -> None:
    """Words before a tool call stay as the model wrote them.

    The answer after it is asked for the prefill and has it.
    """

    stage.calls("look_up", word="pelican")
    stage.turns = [
        [
            *(StreamEvent(type="text", chunk=word + " ") for word in said.split(" ")),
            StreamEvent(type="tool_call_name", chunk="look_up", tool_call_id="t1"),
            StreamEvent(type="tool_call_args", chunk='{"word": "pelican"}', tool_call_id="t1"),
        ],
        ["Answer: ", "a bird."],
    ]
    done = run("-m", "mock", "What is a pelican?", "--functions", FUNCTIONS, "--prefill", "Answer: ", *way)
    words = [] if said == "Answer: " else said.split()
    assert done.stdout.split() == [*words, "Answer:", "a", "bird."]
    assert stage.asked(1).endswith("\n\nAnswer: ")
    rows = json.loads(run("logs", "--json", "-n", "0").output)
    assert rows[-1]["response"] == "Answer: a bird."


def test_text_and_then_a_tool(run: Run, stage: Stage) -> None:
    """If the first response of a chain has begun with the prefill, the next one does not begin with it again."""

    stage.calls("look_up", word="pelican")
    stage.turns = [
        [
            StreamEvent(type="text", chunk="Answer: let me see. "),
            StreamEvent(type="tool_call_name", chunk="look_up", tool_call_id="t1"),
            StreamEvent(type="tool_call_args", chunk='{"word": "pelican"}', tool_call_id="t1"),
        ],
        ["A bird."],
    ]
    done = run("-m", "mock", "What is a pelican?", "--functions", FUNCTIONS, "--prefill", "Answer: ")
    assert " ".join(done.output.split()) == "Answer: let me see. A bird."
    assert BEGIN[:20] not in stage.asked(1)


@pytest.mark.parametrize("way", [(), ("--no-stream",)])
@pytest.mark.parametrize("hidden", [(), ("--hide-prefill",)])
def test_chat(run: Run, stage: Stage, way: tuple[str, ...], hidden: tuple[str, ...]) -> None:
    """Only the first reply of a chat begins with the prefill, and the second turn's history has it whole."""
    stage.turns = [['["Alabama"]'], ["Fine."]]
    done = run("chat", "-m", "mock", "--prefill", '["', *way, *hidden, typed="States\nThanks\nquit\n")
    lines = done.stdout.splitlines()
    assert ('["Alabama"]' if not hidden else 'Alabama"]') in lines
    assert "Fine." in lines
    assert BEGIN[:20] not in stage.asked(1)
    texts = [[part.text for part in one.parts if isinstance(part, TextPart)] for one in stage.prompts[1].messages]
    assert texts == [["States"], ['["Alabama"]'], ["Thanks"]]
    rows = json.loads(run("logs", "--json", "-n", "0").output)
    assert ["prefill" in (row["options_json"] or {}) for row in rows] == [True, False]


def test_chat_errors_are_one_line(run: Run, stage: Stage) -> None:
    """An error in `llm chat` is one line and no traceback."""
    for asked in (("mock", "--prefill", "a"), ("prefill/mock", "-o", "prefill", "a")):
        done = run("chat", "-m", *asked, "-o", "prefill_strict", "1", typed="x\n", code=1)
        assert done.output.splitlines()[-1].startswith("Error: mock does not take a native prefill")
    assert stage.prompts == []


@pytest.mark.parametrize("given", [(), ("--prefill", "B: ")])
def test_chat_with_a_template_of_a_plugins(run: Run, stage: Stage, given: tuple[str, ...]) -> None:
    """A template's prefill begins a chat's first reply. The command line can replace it, and it stays hidden."""

    class Plugin:
        __name__ = "aprefill-test-templates"

        @llm.hookimpl
        def register_template_loaders(self, register: Any) -> None:
            register("test", lambda name: llm.Template(name=name, options={"prefill": "A: ", "hide_prefill": True}))

    pm.register(Plugin(), name="aprefill-test-templates")
    try:
        stage.turns = [["A: one"] if not given else ["B: one"], ["two"]]
        done = run("chat", "-m", "mock", "-t", "test:x", *given, typed="x\ny\nquit\n")
    finally:
        pm.unregister(name="aprefill-test-templates")
    assert [line for line in done.stdout.splitlines() if line.endswith(("one", "two"))] == ["one", "two"]
    asked = "B: " if given else "A: "
    assert stage.asked(0).endswith(f"\n\n{asked}")
    assert BEGIN[:20] not in stage.asked(1)


def test_an_empty_prefill_is_none(run: Run, stage: Stage) -> None:
    """An empty prefill is no prefill, and the log does not have it."""
    assert run("-m", "mock", "x", "--prefill", "").stdout == "Hello.\n"
    (row,) = json.loads(run("logs", "--json").output)
    assert not row["options_json"]


def test_a_key(run: Run, stage: Stage) -> None:
    """`--key` reaches the model, and without a key there is LLM's own error."""
    stage.play("yes")
    run("-m", "key-mock", "x", "--prefill", "a", "--key", "sk-1")
    assert stage.keys == ["sk-1"]
    assert "No key found" in run("-m", "key-mock", "x", "--prefill", "a", code=1).output


def test_models(run: Run, stage: Stage) -> None:
    """`llm models` lists each model once.

    `llm models -q prefill/` lists the others, and `llm prefill models` the modes.
    """
    listed = run("models").output
    assert "prefill/" not in listed
    assert "mock" in listed
    # the id to type
    assert "Prefill: prefill/mock (aliases: prefill/m)" in run("models", "-q", "prefill/mock").output
    assert run("prefill", "models", "-q", "mock").stdout.splitlines()[0].split() == [
        "mock", "emulated", "asked", "for", "in", "the", "prompt",
    ]  # fmt: skip
    found = json.loads(run("prefill", "models", "--json", "--async").output)
    assert {"model_id", "host", "mode", "what", "evidence"} == set(found[0])
    assert not any(one["model_id"].startswith("prefill/") for one in found)


def test_help(run: Run) -> None:
    """Both options are in the help of both commands."""
    for command in ("prompt", "chat"):
        text = " ".join(run(command, "--help").output.split())
        assert "--prefill TEXT" in text
        assert "--hide-prefill" in text
        assert ("the first reply" in text) == (command == "chat")
    assert run("prefill", "--help").exit_code == 0


def test_options_are_shown(run: Run, stage: Stage) -> None:
    """`llm models --options` shows the options that a user can set, and not those that are only logged."""
    shown = run("models", "-q", "prefill/mock", "--options").output
    assert "prefill_strict: boolean" in shown
    assert "prefill_mode" not in shown


def test_prefixed_model(run: Run, stage: Stage) -> None:
    """`-m prefill/<id>` works with `-o prefill` and with `--prefill`, by alias too, and `-c` continues with it."""
    stage.turns = [["Oslo"], ["Bergen"], ["Paris"]]
    assert run("-m", "prefill/mock", "x", "-o", "prefill", "City: ").stdout == "City: Oslo\n"
    assert run("-c", "y").stdout == "Bergen\n"
    assert run("-m", "prefill/m", "x", "--prefill", "City: ").stdout == "City: Paris\n"
