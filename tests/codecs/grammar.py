"""Records as hypothesis strategies: the fields that hosts send, with valid and with invalid values."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

#: Text with everything that has caused trouble: surrogates, control characters, quotes, the end marker.
awkward = st.one_of(
    st.sampled_from(
        [
            "",
            "error",
            "stop",
            "text",
            "tool_use",
            "thinking",
            "[DONE]",
            "{}",
            '{"a":',
            "\ud83d",
            "\ude00",
            "\x00",
        ]
    ),
    st.text('aZ é😀\ud83d\ude00\x00\n"\\', max_size=6),
)

#: Values that no field expects. They are ready-made, because drawing nested ones takes most of a test's time.
anything: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, 0, -1, 7, 1.5, 10**30, float("nan"), float("inf"), "", "x", "error", "\ud83d", "400"),
        *([], {}, [[]], [None], ["a"], ["\ud83d"], [{}], [1, {"a": [2]}]),
        *(
            {"a": 1},
            {"\ud83d": "\ude00"},
            {"text": "\ud83d"},
            {"error": "e"},
            {"message": {"detail": [{"msg": "m"}]}},
        ),
        {"type": "text", "text": None},
    ]
)


def fields(**shapes: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object in which each field is missing, valid, or any value at all."""
    return st.fixed_dictionaries(
        {}, optional={name: st.one_of(shape, shape, anything) for name, shape in shapes.items()}
    )


index = st.one_of(st.none(), st.integers(0, 3))
word = st.one_of(st.none(), awkward)

error = st.one_of(
    awkward,
    fields(type=word, code=anything, message=word, status=anything, metadata=fields(raw=word), param=anything),
)

usage = fields(
    prompt_tokens=st.integers(),
    completion_tokens=st.integers(),
    input_tokens=st.integers(),
    output_tokens=st.integers(),
    prompt_tokens_details=fields(cached_tokens=st.integers()),
    output_tokens_details=fields(thinking_tokens=st.integers()),
)

function = fields(name=word, arguments=word)
part = st.one_of(
    awkward,
    fields(
        type=st.sampled_from(["text", "thinking", "reference"]),
        text=word,
        thinking=st.lists(fields(type=word, text=word), max_size=2),
    ),
)
openai_chunk = fields(
    choices=st.lists(
        fields(
            index=index,
            delta=st.one_of(
                st.none(),
                fields(
                    content=st.one_of(word, st.lists(part, max_size=3)),
                    reasoning=word,
                    reasoning_content=word,
                    refusal=word,
                    tool_calls=st.lists(fields(index=index, id=word, function=function), max_size=3),
                    function_call=function,
                ),
            ),
            finish_reason=st.one_of(word, st.sampled_from(["stop", "length", "error", "tool_calls"])),
            stop_reason=anything,
            usage=usage,
        ),
        max_size=3,
    ),
    usage=usage,
    error=error,
    x_groq=fields(usage=usage, error=error),
    object=word,
    message=word,
    detail=anything,
    base_resp=fields(status_code=st.integers(0, 3), status_msg=word),
)

KINDS = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "completion",
    "ping",
    "error",
]
DELTA_KINDS = [
    "text_delta",
    "thinking_delta",
    "signature_delta",
    "input_json_delta",
    "citations_delta",
    "compaction_delta",
]
BLOCK_KINDS = [
    "text",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "server_tool_use",
    "web_search_tool_result",
    "compaction",
]
anthropic_event = fields(
    type=st.one_of(st.sampled_from(KINDS), word),
    index=index,
    delta=fields(
        type=st.one_of(st.sampled_from(DELTA_KINDS), word),
        text=word,
        thinking=word,
        partial_json=word,
        signature=word,
        stop_reason=word,
        stop_sequence=word,
        content=anything,
    ),
    content_block=fields(
        type=st.sampled_from(BLOCK_KINDS),
        text=word,
        thinking=word,
        id=word,
        name=word,
        input=anything,
        content=anything,
        data=word,
    ),
    message=fields(id=word, usage=usage, stop_reason=word, stop_sequence=word),
    usage=usage,
    error=error,
    completion=word,
)

own_call = fields(id=word, function=fields(name=word, arguments=st.one_of(word, fields(a=word))))
ollama_piece = fields(
    message=fields(content=word, thinking=word, tool_calls=st.lists(own_call, max_size=3)),
    response=word,
    thinking=word,
    done=st.booleans(),
    done_reason=st.one_of(word, st.sampled_from(["stop", "length"])),
    prompt_eval_count=st.integers(),
    eval_count=st.integers(),
    error=st.one_of(st.none(), st.none(), st.none(), error),
)

COHERE_KINDS = [
    "message-start",
    "content-start",
    "content-delta",
    "content-end",
    "tool-plan-delta",
    "tool-call-start",
    "tool-call-delta",
    "tool-call-end",
    "citation-start",
    "message-end",
    "error",
]
cohere_event = fields(
    type=st.sampled_from(COHERE_KINDS),
    index=index,
    delta=fields(
        message=fields(
            content=fields(type=word, text=word, thinking=word),
            tool_calls=fields(id=word, function=function),
            tool_plan=word,
        ),
        finish_reason=st.one_of(word, st.sampled_from(["COMPLETE", "ERROR", "TOOL_CALL"])),
        usage=fields(tokens=usage, billed_units=usage, cached_tokens=st.integers()),
        error=st.one_of(st.none(), st.none(), error),
    ),
    message=word,
)

RESPONSES_KINDS = [
    "response.created",
    "response.output_item.added",
    "response.output_item.done",
    "response.output_text.delta",
    "response.refusal.delta",
    "response.reasoning_text.delta",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.completed",
    "response.incomplete",
    "response.failed",
    "error",
]
ITEM_KINDS = ["message", "reasoning", "function_call", "custom_tool_call", "web_search_call", "shell_call_output"]
output_item = fields(
    type=st.sampled_from(ITEM_KINDS),
    id=word,
    call_id=word,
    name=word,
    arguments=word,
    input=word,
    phase=word,
    encrypted_content=word,
    content=st.lists(fields(type=st.sampled_from(["output_text", "refusal"]), text=word, refusal=word), max_size=2),
)
responses_event = fields(
    type=st.one_of(st.sampled_from(RESPONSES_KINDS), word),
    output_index=index,
    item_id=word,
    delta=word,
    arguments=word,
    item=output_item,
    response=fields(
        status=st.one_of(st.sampled_from(["completed", "incomplete", "failed"]), word),
        incomplete_details=fields(reason=word),
        output=st.lists(output_item, max_size=2),
        error=error,
        usage=usage,
    ),
    error=error,
    code=word,
    message=word,
    sequence_number=anything,
)

_count = st.one_of(st.integers(), st.integers(0, 9))
_args = st.one_of(anything, st.dictionaries(awkward, awkward, max_size=2))
_path = st.one_of(
    st.sampled_from(["$.a", "$.a.b", "$.a[0]", "$.a[1]", "$['b']", '$["c"][0].d', "$", "$.a[9]"]), awkward
)
_arg = fields(jsonPath=_path, stringValue=word, numberValue=_count, boolValue=st.booleans(), willContinue=st.booleans())
_call = fields(
    name=word, id=word, args=_args, partialArgs=st.lists(_arg, max_size=3), willContinue=st.sampled_from([True, False])
)
_gemini_part = fields(
    text=awkward, thought=st.booleans(), thoughtSignature=word, functionCall=_call, executableCode=fields(code=word)
)
gemini_record = fields(
    candidates=st.lists(
        fields(
            index=index,
            content=fields(parts=st.lists(_gemini_part, max_size=3)),
            finishReason=st.one_of(word, st.sampled_from(["STOP", "MAX_TOKENS", 1, 0])),
        ),
        max_size=2,
    ),
    usageMetadata=fields(
        promptTokenCount=_count, candidatesTokenCount=_count, thoughtsTokenCount=_count, cachedContentTokenCount=_count
    ),
    promptFeedback=fields(blockReason=word),
    error=error,
    message=word,
)
