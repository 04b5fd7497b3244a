"""A three-layer perceptron in numpy: forward pass, gradient, losses, optimisers, metrics."""
