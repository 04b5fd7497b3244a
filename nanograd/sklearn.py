"""A scikit-learn classifier for numeric tables with any number of columns and classes.

It trains in this process, with the rounds, server and optimizers of `nanograd train`. The bits do
not depend on the number of cores. For digits, prefer `nanograd.train`, which deskews and distorts
the images and writes a run directory.

References:
    scikit-learn, "Developing scikit-learn estimators".
"""

from contextlib import closing
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nanograd.digits.augment import Distortion
from nanograd.digits.dataset import Dataset
from nanograd.digits.preparation import Preparation
from nanograd.errors import needs_package
from nanograd.models.model import mean_scores
from nanograd.models.reference import to_probabilities
from nanograd.runtime import process
from nanograd.settings.arguments import resolved
from nanograd.settings.train_spec import TrainSpec
from nanograd.training.local import LocalGroup
from nanograd.training.loop import as_net
from nanograd.training.recipe import make_recipe
from nanograd.training.server import first_snapshot

with needs_package("MLPClassifier", "scikit-learn"):
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data

# Inputs further from the mean, in standard deviations, would overflow float32 in the net.
_FAR = 1e30


@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """A three-layer perceptron: columns, hidden units, classes.

    The columns are standardised with the mean and the standard deviation of the training rows.

    Args:
        hidden: number of hidden units.
        activation: activation of the hidden layer: sigmoid, tanh or relu.
        loss: mse (sigmoid outputs) or cross_entropy (softmax outputs).
        optimizer: sgd, momentum or adam.
        learning_rate: peak learning rate.
        momentum: decay of the velocity, for optimizer momentum.
        schedule: constant or cosine.
        warmup: rounds of linear warm-up of the learning rate.
        ema: decay of the exponential average of the weights; 0 uses the last weights.
        epochs: passes over the training rows.
        least_rounds: minimum number of optimizer steps; more epochs are added to reach it.
        batch_size: rows per round, at most the number of training rows.
        shards: number of parts of each batch, which are computed in parallel; it changes the bits.
        random_state: a seed, or a `numpy.random.RandomState` to draw one from.

    Attributes:
        classes_: (C,) sorted labels.
        n_features_in_: D, number of columns.
        n_iter_: number of epochs.
        loss_: mean loss in the last epoch.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> MLPClassifier(hidden=16, random_state=0).fit(X, y).score(X, y) > 0.95
    True
    """

    hidden: int = 100
    _: KW_ONLY
    activation: str = "relu"
    loss: str = "cross_entropy"
    optimizer: str = "momentum"
    learning_rate: float = 0.1
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup: int = 25
    ema: float = 0.99
    epochs: int = 10
    least_rounds: int = 500
    batch_size: int = 128
    shards: int = 1
    random_state: int | np.random.RandomState | None = None

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803 - scikit-learn's name
        """Train from scratch.

        Args:
            X: (N, D) finite numbers.
            y: (N,) labels of any type.

        Raises:
            ValueError: the rows, labels or parameters are invalid.
            DivergedError: a gradient, loss or parameter is not finite.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        # Scaled by powers of 2, squares of very large and very small values are finite and not 0.
        self._exponents = np.frexp(np.abs(rows).max(axis=0))[1]
        scaled = np.ldexp(rows, -self._exponents)
        self._mean, self._deviation = scaled.mean(axis=0), scaled.std(axis=0)
        self._deviation[np.ptp(scaled, axis=0) == 0] = 1
        dataset = Dataset(self._inputs(rows), numbers)
        params = self.get_params()
        seed = int(check_random_state(params.pop("random_state")).randint(2**31))
        params["batch_size"] = min(params["batch_size"], len(dataset))
        params["shards"] = min(params["shards"], params["batch_size"])
        if params["optimizer"] != "momentum":
            params["momentum"] = None
        # TrainSpec has settings of these names. Parameter searches may pass numpy scalars.
        with resolved(TrainSpec, params | {"seed": seed, "pixels": "unit"}) as spec:
            recipe = make_recipe(spec, len(dataset))
            layers = {"inputs": rows.shape[1], "classes": len(self.classes_)}
            recipe = replace(
                recipe,
                architecture=replace(recipe.architecture, **layers),
                preparation=Preparation(name="plain"),
                distortion=Distortion(),
            )
            with closing(LocalGroup(recipe, dataset, first_snapshot(recipe))) as group:
                group.advance(recipe.num_rounds)
                snapshot = group.snapshot()
        self._net = as_net(recipe, snapshot)
        self.n_iter_ = recipe.epochs
        self.loss_ = snapshot.progress.loss / snapshot.progress.num_images
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803
        """Compute the score of each class, (N, C) float32; each row sums to 1.

        The scores are not calibrated; use scikit-learn's CalibratedClassifierCV if you need that.
        """
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        with process.one_thread():
            scores = mean_scores([self._net], self._inputs(rows))
        return to_probabilities(scores)

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return the label with the largest score, (N,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def _inputs(self, rows: NDArray[np.float64]) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            inputs = (np.ldexp(rows, -self._exponents) - self._mean) / self._deviation
        return np.asarray(np.clip(inputs, -_FAR, _FAR), np.float32)
