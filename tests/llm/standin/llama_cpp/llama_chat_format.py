"""llm-gguf looks chat handlers up here; the tests use none."""
