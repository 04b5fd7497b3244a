"""Settings to start from, each chosen by its accuracy on held-out training images.

docs/accuracy.md has the figures.
"""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # The original's net and loss: sigmoid twice, mean squared error, plain SGD.
    # The warm-up is not for taste: at the start all hidden outputs are near 1/2, the curvature
    # along their mean is about 6, and a rate above 1/3 would saturate every output at once.
    "classic": {
        "activation": "sigmoid",
        "loss": "mse",
        "optimizer": "sgd",
        "learning_rate": 10.0,
        "warmup": 1000,
        "batch_size": 256,
        "epochs": 30,
        # More epochs than `fast`: digits are set upright once, which costs half as much.
        "upright": "before",
        "cool_down": 0.0,
    },
    # Still 784-200-10, with today's choices: the fields' defaults.
    "fast": {},
    # As accurate as one hidden layer gets here in minutes: six times the units, more passes.
    "accurate": {
        "hidden": 1200,
        "epochs": 120,
        "least_rounds": 1200,
        # 0.3 makes as few errors, but a held-out loss that is a tenth higher.
        "learning_rate": 0.1,
        "ema": 0.995,
        # Twice those of `fast` at first, so that so many passes do not exhaust them, and as strong
        # at the end, so that the net settles on digits as people write them.
        "elastic": 1.7,
        "rotation": 15.0,
        "scaling": 0.2,
        "cool_down": 0.55,
        # Matrix products of 128 rows are faster than of 64; four workers still have one each.
        "shards": 4,
        "width": 3.5,
        "height": 5.5,
        "validation_split": 0.0,
    },
}
