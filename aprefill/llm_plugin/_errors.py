"""The plugin's error. It is one of LLM's own kind, which LLM's command line prints as one line."""

from __future__ import annotations

import llm


class PrefillError(llm.ModelError):
    """The prefill cannot be sent, or the model did not begin its reply with it."""
