"""The library's error messages in the command line's words: `base_url=` is `--base-url` here."""

from __future__ import annotations

import re

#: Arguments of `stream()` that are options here, as messages write them: `support=`, `support=...`.
_ARGUMENT = re.compile(
    r"\b(api|base_url|max_tokens|model|prefill|stop|strict|support|system|temperature)=(?![\w'\"{(\[])"
)

#: What to do differs from what a program would do. A test finds each of these in the library's source.
_PHRASES = (
    (", or pass api_key=", ""),
    ("pass the key as api_key= or in the environment", "put the key in the environment"),
    ("aprefill.support_table() lists them", "`aprefill models` lists them"),
    (", or pass a client= that trusts it", ""),
    (", or None for the table's word", ""),
    ("emulate=False", "--no-emulate"),
    ("allow_http=True", "--allow-http"),
    ("strict=True", "--strict"),
    (
        'pass absent="join" to have it put in front, or absent="retry" to ask once more',
        "leave --absent out to have it put in front, or pass --absent retry to ask once more",
    ),
    ("raise max_tokens, and what extra= sets", "raise --max-tokens"),
    ("`text_so_far` has what came, pass it as prefill to go on from there", "pass what came as --prefill to go on"),
)
_TIMEOUT = re.compile(r"; raise Timeouts\(\w+=\.\.\.\) if that is normal for this model, `text_so_far` has what came")


def in_options(message: str) -> str:
    """`message` with the names of options for the names of arguments."""
    for phrase, instead in _PHRASES:
        message = message.replace(phrase, instead)
    message = _TIMEOUT.sub("; try again later", message)
    message = _ARGUMENT.sub(lambda match: "--" + match[1].replace("_", "-"), message)
    return re.sub(r"\bbase_url\b", "--base-url", message)
