"""Data about hosts: what they do with a prefill, and how to reach them."""
