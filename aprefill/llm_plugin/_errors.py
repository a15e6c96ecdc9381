"""LLM's own kind of error, which its command line prints as one line."""

from __future__ import annotations

import llm


class PrefillError(llm.ModelError):
    """The prefill cannot be carried here, or the model did not begin with it."""
