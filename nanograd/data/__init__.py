"""From bytes to arrays: file formats, MNIST, pictures of handwriting, batches."""
