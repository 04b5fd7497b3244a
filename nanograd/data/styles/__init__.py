"""Digits in styles that MNIST has few of."""
