"""The seam: where the known text ends and the new text begins."""
