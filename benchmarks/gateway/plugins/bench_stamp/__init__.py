"""The response hook of the benchmarks."""
