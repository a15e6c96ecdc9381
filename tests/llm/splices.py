"""Replies of hosts, and the text that the plugin makes of them."""

from __future__ import annotations

import pytest

#: Prefill, the model's chunks, and the reply. These are more cases than those of LLM's pull request 473: empty chunks,
#: and no text at all.
CASES = [
    pytest.param('["', ['Alabama", "Alaska"]'], '["Alabama", "Alaska"]', id="left out"),
    pytest.param('["', ['["Alabama", "Alaska"]'], '["Alabama", "Alaska"]', id="repeated"),
    pytest.param("abc", ["", None, "abc", "def"], "abcdef", id="repeated in a chunk of its own"),
    pytest.param("abc", ["a", "bcd", "ef"], "abcdef", id="repeated across chunks"),
    pytest.param("abc", ["", None, "def"], "abcdef", id="left out behind empty chunks"),
    pytest.param("abc", [], "abc", id="nothing came"),
]
