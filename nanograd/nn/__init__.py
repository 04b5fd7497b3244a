"""A perceptron with its gradient derived by hand, losses, optimisers and metrics, in numpy."""
