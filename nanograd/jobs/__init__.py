"""Batch jobs over files. Each planned part is done and committed exactly once; no Ray."""
