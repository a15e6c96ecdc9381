"""The engine: from a call to the chunks, whatever the host does."""
