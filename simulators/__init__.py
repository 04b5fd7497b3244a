"""Simulators for tests and benchmarks: photos of digits, and several hosts on one machine."""
