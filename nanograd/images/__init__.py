"""Parquet: which column holds images, rows to images, files, writers."""
