"""Synchronous training: worker, parameter server, loop, run directory; no Ray."""
