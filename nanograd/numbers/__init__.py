"""Reading of numbers: lines of digits in a picture, cut into digits by dynamic programming."""
