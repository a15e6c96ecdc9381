"""Pure text: where the known text ends and new text begins."""
