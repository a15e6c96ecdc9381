"""The hosts: names, addresses, keys, the support table, and what a host's words may show."""
