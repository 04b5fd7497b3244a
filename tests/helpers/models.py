from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanograd.digits.preparation import Preparation, deskew_images, scale
from nanograd.models.model import Model, Net
from nanograd.models.reference import INNER, NUM_DIRECTIONS, Reference
from nanograd.nn.mlp import Architecture, init_params

ABOUT = {"seed": 5, "data": "sample", "val_accuracy": 0.1 + 0.2, "identity": {"ema": 0.0}}


def some_net(
    hidden: int = 7,
    loss: str = "cross_entropy",
    seed: int = 5,
    activation: str = "relu",
    scale: float = 1.0,
    **pixels: Any,
) -> Net:
    """Return a net with biases; a scale of 3 makes its scores as far from 0.1 as training does."""
    layers = {"inputs": 784, "hidden": hidden, "classes": 10}
    params = init_params(Architecture(**layers, activation=activation, loss=loss), seed)
    params.vector[:] += np.random.default_rng(seed).uniform(-0.1, 0.1, len(params.vector))
    params.vector[:] *= np.float32(scale)
    return Net(params=params, preparation=Preparation(**{"name": "standard", **pixels}))


def some_model(hidden: int = 7, loss: str = "cross_entropy") -> Model:
    nets = (some_net(hidden, loss),)
    return Model(nets=nets, about=dict(ABOUT), reference=some_reference())


def some_ensemble() -> Model:
    """Three nets, no two of the same size and preparation."""
    nets = (some_net(), some_net(9, seed=6), some_net(7, seed=7, name="deskewed", width=4.0))
    return Model(nets=nets, about=dict(ABOUT), reference=some_reference())


def some_images(num_images: int) -> NDArray[np.uint8]:
    images = np.random.default_rng(7).integers(0, 256, (num_images, 784)).astype(np.uint8)
    images.flags.writeable = False
    return images


def some_reference(temperature: float = 1.3) -> Reference:
    """Statistics by which random digits are neither familiar nor unfamiliar."""
    draws = np.random.default_rng(9)
    return Reference(
        temperature=temperature,
        means=draws.integers(0, 90, (10, 784)).astype(np.uint8),
        directions=draws.integers(-127, 128, (10, NUM_DIRECTIONS, len(INNER))).astype(np.int8),
        scales=np.linspace(1e-7, 3e-7, 10, dtype=np.float32),
        weights=draws.uniform(-1e-13, 1e-13, (10, NUM_DIRECTIONS)).astype(np.float32),
    )


def prepare(preparation: Preparation, images: NDArray[np.uint8]) -> NDArray[np.floating[Any]]:
    return scale(preparation, deskew_images(preparation, images))
