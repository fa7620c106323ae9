"""Runs operations: `requests` (pure) says what to send, `upstream` sends it, `engine` walks the query."""
