"""Tests of the engine, which turns a call into chunks whatever the host does."""
