"""The plan: what is sent first, and what after that, without a network."""
