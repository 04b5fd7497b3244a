from dataclasses import replace

import numpy as np

from nanograd.models.model import Model, mean_scores
from nanograd.nn.mlp import Params
from nanograd.runtime import process
from tests.helpers.models import some_ensemble, some_images, some_model, some_reference


def test_scores_do_not_depend_on_the_size_of_the_batch():
    model, images = some_model(), some_images(1031)

    with process.one_thread():
        together = model.probabilities(images)
        pieces = np.concatenate(
            [model.probabilities(images[i : i + 193]) for i in range(0, 1031, 193)]
        )
        alone = np.concatenate(
            [model.probabilities(images[i : i + 1]) for i in (0, 511, 512, 1030)]
        )

    assert together.dtype == np.float32
    assert model.probabilities(images[:0]).shape == (0, 10)
    np.testing.assert_allclose(pieces, together, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(alone, together[[0, 511, 512, 1030]], rtol=1e-4, atol=1e-6)


def test_scores_of_an_ensemble_are_the_mean_of_its_nets_scores():
    nets, images = some_ensemble().nets, some_images(7)

    scores, *alone = [mean_scores(some, images) for some in (nets, *([net] for net in nets))]

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, sum(alone) / np.float32(3), rtol=1e-6)


def test_sha256_depends_on_every_parameter_statistic_and_the_order_of_the_nets():
    first, *rest = some_ensemble().nets
    vector = first.params.vector.copy()
    vector[7] = np.nextafter(vector[7], np.float32(1))
    changed, reference = replace(first, params=Params(vector, first.architecture)), some_reference()
    changes = [{"temperature": 1.31}]
    changes += [{name: np.roll(each, 1)} for name, each in reference.tensors().items()]

    models = [
        Model(nets=tuple(nets), about={}, reference=reference)
        for nets in ([first, *rest], [changed, *rest], [first], [*rest, first])
    ]
    others = [replace(models[0], reference=replace(reference, **each)) for each in changes]

    assert len({model.params_sha256() for model in [*models, *others]}) == len(models)
    assert len({model.sha256() for model in [*models, *others]}) == len(models) + len(others)
