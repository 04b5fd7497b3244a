"""A three-layer perceptron on MNIST, trained by Ray workers to the same bits whatever their number.

Public names are loaded when first used, so that `nanograd --help` answers at once.
"""

__version__ = "0.1.0"
