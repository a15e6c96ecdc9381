"""The seam: pure code that finds where the known text ends in a provider's stream, and passes on only the new text."""
