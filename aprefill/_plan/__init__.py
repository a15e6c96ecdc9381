"""Decides which request to send first, and which to send next. Pure."""
