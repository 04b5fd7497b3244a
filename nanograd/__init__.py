"""A three-layer perceptron on MNIST: the same bits whatever the number of Ray workers."""

__version__ = "0.1.0"
