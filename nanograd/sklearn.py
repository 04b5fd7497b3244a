"""The net as a scikit-learn classifier: tables of numbers, any number of columns and classes.

It trains by the same rounds, server and optimisers as `nanograd train`, in this process, to the
same bits on any number of cores. For digits `nanograd.train` is the better one: it sets them
upright, distorts them and keeps a run directory.

References:
    scikit-learn, "Developing scikit-learn estimators".
"""

from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from nanograd.config.train_config import TrainConfig
from nanograd.data.dataset import Dataset
from nanograd.digits.augment import Distortion
from nanograd.digits.preparation import Preparation
from nanograd.errors import UsageError
from nanograd.runtime import process
from nanograd.training.local import LocalGroup
from nanograd.training.loop import as_model
from nanograd.training.recipe import Recipe, make_recipe
from nanograd.training.server import first_snapshot


class MLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """A three-layer perceptron: columns, hidden units, classes.

    Columns are brought to mean 0 and deviation 1 first, with the figures of the training rows, as
    `nanograd train` does with pixels.

    Args:
        hidden: hidden units.
        activation: of the hidden layer: sigmoid, tanh or relu.
        loss: mse (sigmoid outputs) or cross_entropy (softmax outputs).
        optimizer: sgd, momentum or adam.
        learning_rate: its peak.
        momentum: decay of the velocity, with optimizer momentum.
        schedule: constant or cosine.
        warmup: rounds of linear warm-up of the learning rate.
        ema: decay of the average of the weights; 0 keeps the last weights.
        epochs: passes over the training rows.
        least_rounds: more epochs, if it takes them to reach so many rounds.
        batch_size: rows a round, or all there are.
        shards: parts of each batch, computed on as many cores; another number, other bits.
        random_state: a seed, or a `numpy.random.RandomState` to draw one from.

    Attributes:
        classes_: (C,) the labels, sorted.
        n_features_in_: D, columns of the training rows.
        n_iter_: epochs made.
        loss_: mean loss of the rows in the last of them.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> MLPClassifier(hidden=16, random_state=0).fit(X, y).score(X, y) > 0.95
    True
    """

    def __init__(
        self,
        hidden: int = 100,
        *,
        activation: str = "relu",
        loss: str = "cross_entropy",
        optimizer: str = "momentum",
        learning_rate: float = 0.1,
        momentum: float = 0.9,
        schedule: str = "cosine",
        warmup: int = 25,
        ema: float = 0.99,
        epochs: int = 10,
        least_rounds: int = 500,
        batch_size: int = 128,
        shards: int = 1,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.schedule = schedule
        self.warmup = warmup
        self.ema = ema
        self.epochs = epochs
        self.least_rounds = least_rounds
        self.batch_size = batch_size
        self.shards = shards
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803 - scikit-learn's name
        """Train from the beginning.

        Args:
            X: (N, D) finite numbers.
            y: (N,) labels of any kind.

        Raises:
            ValueError: rows or labels that are none, or a parameter that cannot be meant.
            DivergedError: training left the finite numbers.
        """
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        self._mean, self._deviation = rows.mean(axis=0), rows.std(axis=0)
        self._deviation[self._deviation == 0] = 1
        self._train(Dataset(self._inputs(rows), numbers))
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803
        """(N, C) float32, the score of each class; a row sums to 1."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        with process.one_thread():
            scores = self._model.scores(self._inputs(rows))
        return np.asarray(scores / scores.sum(axis=1, keepdims=True), np.float32)

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """(N,) the label of the best score."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def _inputs(self, rows: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.asarray((rows - self._mean) / self._deviation, np.float32)

    def _train(self, rows: Dataset) -> None:
        recipe = self._recipe(rows)
        group = LocalGroup(recipe, rows, first_snapshot(recipe))
        try:
            group.advance(recipe.num_rounds)
            snapshot = group.snapshot()
        finally:
            group.close()
        self._model = as_model(recipe, snapshot, {})
        self.n_iter_ = recipe.epochs
        self.loss_ = snapshot.progress.loss / snapshot.progress.num_images

    def _recipe(self, rows: Dataset) -> Recipe:
        """That of `nanograd train` with these settings, but for what is about pixels."""
        settings = {name: _plain(value) for name, value in self.get_params().items()}
        seed = int(check_random_state(settings.pop("random_state")).randint(2**31))
        if self.optimizer != "momentum":
            del settings["momentum"]
        batch_size = min(settings["batch_size"], len(rows))
        shards = min(settings["shards"], batch_size)
        fitting = {"seed": seed, "batch_size": batch_size, "shards": shards}
        try:
            recipe = make_recipe(TrainConfig.resolve(settings, fitting), len(rows))
        except UsageError as error:
            raise ValueError(str(error)) from error
        return replace(
            recipe,
            architecture=replace(
                recipe.architecture, inputs=rows.images.shape[1], classes=len(self.classes_)
            ),
            preparation=Preparation(name="plain"),
            distortion=Distortion(),
            upright_last=False,
        )


def _plain(value: Any) -> Any:
    """Python's own number for one of numpy, which a search over parameters may give."""
    return value.item() if isinstance(value, np.generic) else value
