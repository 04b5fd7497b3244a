"""28 x 28 images of digits: resampled, deskewed, prepared, distorted."""
