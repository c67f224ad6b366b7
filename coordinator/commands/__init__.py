"""One module a command; each parses, calls `shared`, and prints."""
