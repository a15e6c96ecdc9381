"""Decides what to send, first and next. Pure."""
