"""scikit-learn's MLPClassifier, trained by `partial_fit`."""

import warnings

import numpy as np
from sklearn.neural_network import MLPClassifier

from contenders.base import Setting, load_images, standardised

# The default of `MLPClassifier()`.
_DEFAULT_BATCH = 200


class Scikit:
    """A classifier that continues its training.

    Args:
        setting: the training; `adam` is the classifier's default, including batch 200.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        mnist = load_images(setting)
        self._images, self._labels = standardised(mnist.train.images), mnist.train.labels
        self._test, self._test_labels = standardised(mnist.test.images), mnist.test.labels
        warnings.filterwarnings("ignore", category=UserWarning)
        self.reset(setting.seed)

    def reset(self, seed: int) -> None:
        """Start over."""
        momentum = {
            "solver": "sgd",
            "momentum": 0.9,
            "nesterovs_momentum": False,
            "learning_rate_init": 0.1,
            "batch_size": self._setting.batch,
        }
        adam = {"batch_size": _DEFAULT_BATCH}
        self._net = MLPClassifier(
            hidden_layer_sizes=(self._setting.hidden,),
            random_state=seed,
            **(adam if self._setting.recipe == "adam" else momentum),
        )
        self._order, self._place = np.random.default_rng(seed).permutation(len(self._images)), 0

    def run(self, rounds: int) -> int:
        """Train on the images of some rounds, and return their number."""
        left = total = rounds * self._setting.batch
        while left:
            if self._place == len(self._order):
                self._order, self._place = np.random.permutation(self._order), 0  # noqa: NPY002
            index = self._order[self._place : self._place + left]
            self._net.partial_fit(self._images[index], self._labels[index], classes=range(10))
            self._place += len(index)
            left -= len(index)
        return total

    def accuracy(self) -> float:
        """Return the accuracy on the test images."""
        return float(np.mean(self._net.predict(self._test) == self._test_labels))

    def close(self) -> None:
        """Do nothing."""
