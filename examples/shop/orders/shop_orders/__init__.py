"""Takes orders and tells the world about each one exactly as often as it must: at least once."""
