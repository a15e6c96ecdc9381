"""Tests of the seam, which finds where the known text ends in a stream, and of the text stages around it."""
