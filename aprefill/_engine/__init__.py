"""All the awaiting: a reply under way, its requests, its clocks. No parsing, no policy."""
