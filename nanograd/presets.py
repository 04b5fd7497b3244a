"""Settings to start from, each chosen by its accuracy on held-out training images.

docs/numerics.md has the figures.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The original's net and loss: sigmoid twice, mean squared error, plain SGD at a constant rate.
    # The warm-up is not for taste: at the start all hidden outputs are near 1/2, the curvature
    # along their mean is about 6, and a rate above 1/3 would saturate every output at once.
    "classic": {
        "activation": "sigmoid",
        "loss": "mse",
        "optimizer": "sgd",
        "learning_rate": 20.0,
        "warmup": 1000,
        "ema": 0.0,
        "pixels": "unit",
        "batch_size": 256,
        "epochs": 19,
    },
    # Still 784-200-10, with today's choices: the fields' defaults.
    "fast": {},
}
