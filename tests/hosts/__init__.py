"""Tests of the hosts: names, addresses, keys, the support table, and what may be shown of a host's message."""
