"""What the benchmarks compare: each trains the same net on the same images in its own way."""
