"""A plugin of the benchmark."""
