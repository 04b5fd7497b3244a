"""Conversion of any picture of one digit to the 28 x 28 pixels of MNIST."""
