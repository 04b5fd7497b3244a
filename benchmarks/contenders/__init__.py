"""The programs that the benchmarks compare; each trains the same net on the same images."""
