"""Everything that awaits: a running reply, its requests and its timeouts. Contains no parsing and no decisions."""
