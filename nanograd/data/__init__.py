"""MNIST and other sets of labelled digits: formats, download, shards."""
