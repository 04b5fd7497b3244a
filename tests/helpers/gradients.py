import numpy as np

from nanograd.nn.mlp import Params, propagate, sum_gradients
from nanograd.runtime.arrays import Floats


def loss_and_gradients(params: Params, inputs: Floats, targets: Floats) -> tuple[float, Params]:
    signals = propagate(params, inputs, targets)
    gradient = Params(np.empty_like(params.vector), params.architecture)
    sum_gradients(signals, slice(None), gradient)
    return float(signals.losses.sum(dtype=np.float64)), gradient
