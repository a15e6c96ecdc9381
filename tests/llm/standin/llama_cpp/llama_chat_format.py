"""llm-gguf looks for chat handlers here. The tests use none."""
