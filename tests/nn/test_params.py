import numpy as np
import pytest

from nanograd.nn.mlp import Architecture, Params, one_hot

VIEWS = ["w1", "b1", "w2", "b2"]


@pytest.mark.parametrize("view", VIEWS)
def test_view_aliases_the_vector(view: str) -> None:
    params = Params(np.zeros(7 * 785 + 80, np.float32), 7)

    getattr(params, view)[...] = 1

    assert params.vector.dtype == getattr(params, view).dtype == np.float32
    assert params.vector.sum() == getattr(params, view).size


def test_views_cover_the_vector_in_order_without_overlap() -> None:
    params = Params(np.arange(7 * 785 + 80, dtype=np.float32), 7)

    joined = np.concatenate([getattr(params, view).ravel() for view in VIEWS])

    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, params.vector)


@pytest.mark.parametrize("hidden", [1, 7, 193])
def test_views_have_the_shapes_of_the_net(hidden: int) -> None:
    architecture = Architecture(hidden=hidden, activation="relu", loss="mse")

    params = Params(np.zeros(architecture.num_parameters, np.float32), hidden)

    shapes = [getattr(params, view).shape for view in VIEWS]
    assert params.w1.dtype == np.float32
    assert shapes == [(784, hidden), (hidden,), (hidden, 10), (10,)]
    assert sum(map(np.prod, shapes)) == architecture.num_parameters


@pytest.mark.parametrize("shape", [(0,), (7 * 785 + 79,), (7 * 785 + 81,), (7 * 785 + 80, 1)])
def test_vector_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="7 hidden units take 5575 parameters"):
        Params(np.zeros(shape, np.float32), 7)


def test_views_of_a_read_only_vector_are_read_only() -> None:
    vector = np.zeros(7 * 785 + 80, np.float32)
    vector.flags.writeable = False

    with pytest.raises(ValueError, match="read-only"):
        Params(vector, 7).w2[...] = 1


def test_one_hot_marks_each_label_with_a_single_one() -> None:
    rows = one_hot(np.array([3, 0, 9], np.uint8))

    assert rows.dtype == np.float32
    assert rows.shape == (3, 10)
    assert rows.sum() == 3
    assert np.argmax(rows, axis=1).tolist() == [3, 0, 9]


def test_one_hot_gives_rows_that_may_be_changed() -> None:
    one_hot(np.array([3], np.uint8))[...] = 7

    assert one_hot(np.array([3], np.uint8)).dtype == np.float32
    assert one_hot(np.array([3], np.uint8)).max() == 1
