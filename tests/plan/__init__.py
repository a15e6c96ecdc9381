"""Tests of the plan: what is sent first and what is sent after a failure, without a network."""
