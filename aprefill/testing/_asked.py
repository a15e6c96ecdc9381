"""Finds in a prompt the text with which the reply is to begin.

Pure. It reads the prompt as a model does, and shares no code with the part of aprefill that writes the request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

from .._errors import UsageError

#: "ignores": the scripted model does not obey a request in the prompt. "obeys": it does. "obeys_second": it obeys only
#: the second request of `absent="retry"`, which is in other words.
AskedFor: TypeAlias = Literal["ignores", "obeys", "obeys_second"]

#: How the text is found in the user's last message: a regular expression whose only group is the text, or a function
#: that returns the text, or None if the message asks for nothing.
Finder: TypeAlias = str | re.Pattern[str] | Callable[[str], str | None]

#: A text between two markers that were made for one request. If there are several, the last one is to be repeated.
_IN_A_TAG = re.compile(r"<(text-[0-9a-f]{16})>(.*?)</\1>", re.DOTALL)

#: The words of a second request, which is sent if the first reply did not begin as requested. The words of 0.1.0 are
#: included, because a service in another environment may still use them.
_INSISTS = (
    "Write out the complete reply, including its beginning, which is fixed. It begins like this:\n\n",
    "Your reply must begin with: ",
    "This matters more than anything else about the form of your reply",
)

#: The sentences that introduce the text. The text then is the rest of the message.
_BEFORE_THE_TEXT = (
    "Write out the following text again, unchanged, and then go on from where it ends:\n\n",
    *_INSISTS[:2],
)


def find_asked(prompt: str) -> str:
    """Return the text with which `prompt`, in aprefill's own words, asks a reply to begin; "" if it asks for none.

    >>> find_asked("Two states. Your text must begin with: <text-0123456789abcdef>[</text-0123456789abcdef>")
    '['
    >>> find_asked("Two states.")
    ''
    """
    if tags := _IN_A_TAG.findall(prompt):
        return str(tags[-1][1])
    # the last one of the sentences counts: everything before it is the user's own text
    found = [prompt.rpartition(sentence)[2] for sentence in _BEFORE_THE_TEXT if sentence in prompt]
    return min(found, key=len, default="")


def insists(prompt: str) -> bool:
    """Return whether `prompt` is a second request."""
    return any(words in prompt for words in _INSISTS)


def find_with(finder: Finder | None, prompt: str) -> str:
    """Return what `finder` finds in `prompt`. None means `find_asked`."""
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
    """Return what is wrong with `finder`, as the rest of a sentence; "" if nothing is wrong."""
    if isinstance(finder, str):
        try:
            finder = re.compile(finder)
        except re.error as exc:
            return f"is not a regular expression: {exc}"
    if isinstance(finder, re.Pattern):
        if isinstance(finder.pattern, str) and finder.groups == 1:
            return ""
        return "needs exactly one group, for the text with which the reply begins"
    return "" if finder is None or callable(finder) else "must be a regular expression or a function"
