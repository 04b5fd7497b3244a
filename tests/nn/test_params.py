import numpy as np
import pytest

from nanograd.nn.mlp import Architecture, Params, one_hot

VIEWS = ["w1", "b1", "w2", "b2"]


def net(inputs: int = 784, hidden: int = 7, classes: int = 10) -> Architecture:
    return Architecture(
        inputs=inputs, hidden=hidden, classes=classes, activation="relu", loss="mse"
    )


@pytest.mark.parametrize("view", VIEWS)
def test_view_aliases_the_vector(view: str) -> None:
    params = Params(np.zeros(net().num_parameters, np.float32), net())

    getattr(params, view)[...] = 1

    assert params.vector.dtype == getattr(params, view).dtype == np.float32
    assert params.vector.sum() == getattr(params, view).size


@pytest.mark.parametrize("inputs", [1, 784])
@pytest.mark.parametrize("hidden", [1, 7, 193])
@pytest.mark.parametrize("classes", [2, 10])
def test_views_cover_the_vector_in_order_with_the_shapes_of_the_layers(
    inputs: int, hidden: int, classes: int
) -> None:
    architecture = net(inputs, hidden, classes)

    params = Params(np.arange(architecture.num_parameters, dtype=np.float32), architecture)

    views = [getattr(params, view) for view in VIEWS]
    assert [view.shape for view in views] == [
        (inputs, hidden), (hidden,), (hidden, classes), (classes,)
    ]  # fmt: skip
    joined = np.concatenate([view.ravel() for view in views])
    assert joined.dtype == np.float32
    np.testing.assert_array_equal(joined, params.vector)


@pytest.mark.parametrize("shape", [(0,), (7 * 785 + 79,), (7 * 785 + 81,), (7 * 785 + 80, 1)])
def test_vector_of_another_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="7 hidden units take 5575 parameters"):
        Params(np.zeros(shape, np.float32), net())


def test_views_of_a_read_only_vector_are_read_only() -> None:
    vector = np.zeros(net().num_parameters, np.float32)
    vector.flags.writeable = False

    with pytest.raises(ValueError, match="read-only"):
        Params(vector, net()).w2[...] = 1


@pytest.mark.parametrize("change", [{"activation": "swish"}, {"loss": "hinge"}])
def test_unknown_activation_or_loss_is_refused(change: dict[str, str]) -> None:
    settings = {"activation": "relu", "loss": "mse"} | change

    with pytest.raises(ValueError, match=r"swish|hinge"):
        Architecture(inputs=784, hidden=7, classes=10, **settings)


def test_one_hot_returns_new_rows_with_a_single_one_each() -> None:
    labels = np.array([3, 0, 9], np.uint8)
    one_hot(labels, 10)[...] = 7

    rows = one_hot(labels, 10)

    assert rows.dtype == np.float32
    assert rows.shape == (3, 10)
    assert rows.sum() == 3
    assert np.argmax(rows, axis=1).tolist() == [3, 0, 9]
