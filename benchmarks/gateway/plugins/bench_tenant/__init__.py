"""The request hook of the benchmarks."""
