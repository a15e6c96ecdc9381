"""Finds, in the words of a prompt, the text that the reply is asked to begin with.

Pure. Reads the prompt as a model does: it shares no code with the part of aprefill that writes the request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

from .._errors import UsageError

#: "ignores": a request in the prompt is not obeyed. "obeys": it is. "obeys_second": only the second request of
#: `absent="retry"` is, which has words of its own.
AskedFor: TypeAlias = Literal["ignores", "obeys", "obeys_second"]

#: How the text is found in the user's last message: a regular expression whose only group is the text, or a function
#: that returns the text, or None where the message asks for nothing.
Finder: TypeAlias = str | re.Pattern[str] | Callable[[str], str | None]

#: The text between two markers that were made for one request. Where there are several, the last one is to be repeated.
_IN_A_TAG = re.compile(r"<(text-[0-9a-f]{16})>(.*?)</\1>", re.DOTALL)

#: What a second request says, which is sent when the reply to the first did not begin as asked. With the words of 0.1.0
#: as well, which a service in another environment may still use.
_INSISTS = (
    "Write out the complete reply, including its beginning, which is fixed. It begins like this:\n\n",
    "Your reply must begin with: ",
    "This matters more than anything else about the form of your reply",
)

#: The sentences before a text that is the end of the message.
_BEFORE_THE_TEXT = (
    "Write out the following text again, unchanged, and then go on from where it ends:\n\n",
    *_INSISTS[:2],
)


def find_asked(prompt: str) -> str:
    """The text that `prompt` asks a reply to begin with, in aprefill's own words; "" where it asks for none.

    >>> find_asked("Two states. Your text must begin with: <text-0123456789abcdef>[</text-0123456789abcdef>")
    '['
    >>> find_asked("Two states.")
    ''
    """
    if tags := _IN_A_TAG.findall(prompt):
        return str(tags[-1][1])
    # the last of the sentences that is there: what is before it is the user's
    found = [prompt.rpartition(sentence)[2] for sentence in _BEFORE_THE_TEXT if sentence in prompt]
    return min(found, key=len, default="")


def insists(prompt: str) -> bool:
    """Whether `prompt` asks a second time."""
    return any(words in prompt for words in _INSISTS)


def find_with(finder: Finder | None, prompt: str) -> str:
    """What `finder` finds in `prompt`; None is `find_asked`."""
    if finder is None:
        return find_asked(prompt)
    if isinstance(finder, str):
        finder = re.compile(finder, re.DOTALL)
    if isinstance(finder, re.Pattern):
        found = finder.search(prompt)
        return (found[1] or "") if found else ""
    text = finder(prompt)
    if not isinstance(text, str | None):
        raise UsageError(f"the function given as find_asked= returned a {type(text).__name__}", "return a str or None")
    return text or ""


def check_finder(finder: object) -> str:
    """What is wrong with `finder`, in words; "" if nothing is."""
    if isinstance(finder, str):
        try:
            finder = re.compile(finder)
        except re.error as exc:
            return f"is no regular expression: {exc}"
    if isinstance(finder, re.Pattern):
        if isinstance(finder.pattern, str) and finder.groups == 1:
            return ""
        return "needs exactly one group, which is the text that the reply begins with"
    return "" if finder is None or callable(finder) else "takes a regular expression or a function"
