"""Batch jobs over files: planned parts, each done and committed exactly once; no Ray."""
