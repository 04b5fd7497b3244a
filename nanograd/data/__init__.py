"""Labelled digits: data sets and their shards, file formats, download, the built-in sample."""
