"""`nexus tour`: the journey of a user through a running shop, step by step, each one checked."""
