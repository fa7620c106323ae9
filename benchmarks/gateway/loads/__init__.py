"""Load generators: `wrk` for closed loops, `pace.c` for open ones, `idle.py` for connections that do nothing."""
