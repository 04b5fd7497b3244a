"""The scikit-learn facade: its own estimator checks, and that it is this program's training."""

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import train_test_split
from sklearn.utils.estimator_checks import parametrize_with_checks

from nanograd import MLPClassifier


# A fifth of the usual rounds is enough for their few rows.
@parametrize_with_checks([MLPClassifier(least_rounds=100)])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": "mse", "activation": "sigmoid", "learning_rate": 2.0, "optimizer": "sgd"},
        {"optimizer": "adam", "learning_rate": 0.01, "activation": "tanh", "schedule": "constant"},
        {"ema": 0, "batch_size": 10_000, "shards": 3},
    ],
)
def test_every_way_of_training_learns_digits_it_has_not_seen(settings):
    x, y = load_digits(return_X_y=True)
    seen, unseen, labels, wanted = train_test_split(x, y, random_state=0)

    net = MLPClassifier(hidden=32, random_state=0, **settings).fit(seen, labels)

    assert net.score(unseen, wanted) > 0.94
    assert net.loss_ < 0.1
    assert net.n_iter_ >= 10


def test_seed_fixes_the_bits():
    x, y = load_iris(return_X_y=True)
    nets = [
        MLPClassifier(hidden=4, random_state=seed).fit(x, y).predict_proba(x)
        for seed in (3, 3, np.random.RandomState(3), 4)
    ]

    assert np.array_equal(nets[0], nets[1])
    assert np.array_equal(nets[0], nets[2])
    assert not np.array_equal(nets[0], nets[3])


def test_scale_of_the_columns_does_not_matter():
    x, y = load_iris(return_X_y=True)
    tables = (x, 1e4 + x * np.array([1e3, 1e-3, 4, 1]))

    scores = [MLPClassifier(hidden=8, random_state=0).fit(t, y).predict_proba(t) for t in tables]

    np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.mark.parametrize("factor", [2.0**1000, 2.0**-1000])
def test_columns_of_any_magnitude_give_the_same_bits(factor):
    x, y = load_iris(return_X_y=True)
    constant = np.full((len(x), 1), 0.1)  # its mean and standard deviation are rounded
    tables = [np.hstack([x * each, constant * each]) for each in (1, factor)]

    nets = [MLPClassifier(hidden=3, random_state=0).fit(table, y) for table in tables]

    scores = [net.predict_proba(table) for net, table in zip(nets, tables, strict=True)]
    assert np.array_equal(*scores)
    assert nets[0].score(tables[0], y) > 0.9
    assert np.isfinite(nets[0].predict_proba([[1e300, 0, -1e300, 0, 7]])).all()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"hidden": 0}, "hidden is 0: it must be at least 1"),
        ({"activation": "step"}, "activation is 'step': choose sigmoid or tanh or relu"),
        ({"learning_rate": -1}, "learning_rate is -1.0: it must be at least 0"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused_when_fitting(settings, why):
    x, y = load_iris(return_X_y=True)

    with pytest.raises(ValueError, match=why):
        MLPClassifier(**settings).fit(x, y)
