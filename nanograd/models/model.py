"""A model: one net or several, and how pixels must be prepared for them. It is all one needs.

A model directory holds `model.safetensors` (0.w1, 0.b1, 0.w2, 0.b2, those of the next net 1.w1 and
so on), `config.json` (architecture and pixel preparation of each net), `README.md` (the model card,
which may be edited) and, written last, `manifest.json` with the SHA-256 of the first two. No pickle
is involved; a directory that fails its checksums, or says what this version does not know, is
refused.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from platform import python_version
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd import __version__
from nanograd.digits.preparation import Preparation, as_rows, prepare
from nanograd.errors import DataError
from nanograd.models import model_card
from nanograd.nn import mlp
from nanograd.nn.mlp import Architecture, Params
from nanograd.runtime import json_files, process, storage

FORMAT = "nanograd-model-2"
MANIFEST = "manifest.json"

_TENSORS = ("w1", "b1", "w2", "b2")
_FILES, _CARD = ("model.safetensors", "config.json"), "README.md"
_MEANING = {
    "architecture": ("hidden", "activation", "loss"),
    "preparation": ("name", "version", "width", "height"),
}
# Rows put through the net at once: the hidden layer of a larger chunk falls out of cache.
_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class Net:
    """A trained net.

    Args:
        architecture: what the parameters mean.
        params: float32.
        preparation: how pixels become its inputs.
    """

    architecture: Architecture
    params: Params = field(repr=False)
    preparation: Preparation

    def scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Ten scores an image: (B, 784) uint8 to (B, 10) float32."""
        return mlp.predict(self.architecture, self.params, prepare(self.preparation, images))

    def shape(self) -> model_card.Shape:
        """What the model card says of it."""
        of, pixels = self.architecture, self.preparation
        return model_card.Shape(
            of.hidden, of.activation, of.loss, of.num_parameters, pixels.name, pixels.version
        )

    def meaning(self) -> dict[str, Any]:
        """What its parameters are the parameters of."""
        return {
            part: {name: getattr(getattr(self, part), name) for name in names}
            for part, names in _MEANING.items()
        }


@dataclass(frozen=True, kw_only=True)
class Model:
    """A net, or a committee of nets whose scores are averaged.

    Args:
        nets: at least one.
        about: how they came to be (data, seed, settings, accuracies); goes into the manifest.
    """

    nets: tuple[Net, ...]
    about: dict[str, Any]

    def scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Ten scores an image, the mean of the nets' scores.

        Args:
            images: (N, 784) uint8, ink 255 on 0.

        Returns:
            (N, 10) float32 in [0, 1]; the largest is the prediction.
        """
        result = np.empty((len(images), self.nets[0].architecture.classes), np.float32)
        for start in range(0, len(images), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            scores = [net.scores(images[chunk]) for net in self.nets]
            result[chunk] = np.mean(scores, axis=0)
        return result

    def predict(self, images: ArrayLike) -> NDArray[np.int64]:
        """The digit that each image shows.

        Args:
            images: (N, 28, 28) or (N, 784), ink on paper that is 0, in the form MNIST has: whole
                numbers from 0 to 255 or floats from 0 to 1.

        Returns:
            (N,) int64, 0 to 9.

        Raises:
            ValueError: another shape or dtype, or values beyond.
        """
        return np.asarray(self.predict_proba(images).argmax(axis=1), np.int64)

    def predict_proba(self, images: ArrayLike) -> NDArray[np.float32]:
        """Ten scores an image; no calibrated probabilities, and of a net with `mse` no sum of 1.

        Args:
            images: as of `predict`.

        Returns:
            (N, 10) float32 in [0, 1]: `scores`, to the bits that `nanograd predict` writes.

        Raises:
            ValueError: another shape or dtype, or values beyond.
        """
        with process.one_thread():
            return self.scores(as_rows(images))

    def params_sha256(self) -> str:
        """Checksum of all parameters: the identity of a training result."""
        return storage.checksum(self._parameters())

    def sha256(self) -> str:
        """Checksum of all that a prediction depends on."""
        meaning = json.dumps([net.meaning() for net in self.nets])
        return storage.checksum(meaning.encode() + self._parameters())

    def _parameters(self) -> bytes:
        return b"".join(net.params.vector.tobytes() for net in self.nets)


def save(model: Model, place: str) -> None:
    """Write a model directory, its manifest last.

    Args:
        model: what to save.
        place: a folder or URI.

    Raises:
        StorageError: it cannot be written.
    """
    tensors = {
        f"{number}.{name}": np.ascontiguousarray(getattr(net.params, name))
        for number, net in enumerate(model.nets)
        for name in _TENSORS
    }
    nets = [net.meaning() for net in model.nets]
    files = {
        "model.safetensors": save_tensors(tensors),
        "config.json": json_files.pretty({"format": FORMAT, "nets": nets}),
    }
    text = model_card.write([net.shape() for net in model.nets], model.about)
    storage.commit(storage.join(place, _CARD), text.encode())
    for name, data in files.items():
        storage.commit(storage.join(place, name), data)
    manifest = {
        "format": FORMAT,
        "files": {name: storage.checksum(data) for name, data in files.items()},
        "params_sha256": model.params_sha256(),
        "versions": {"nanograd": __version__, "numpy": np.__version__, "python": python_version()},
        **model.about,
    }
    json_files.commit_manifest(storage.join(place, MANIFEST), manifest)


def load(place: str) -> Model:
    """Read a model directory, checking every file against the manifest.

    Args:
        place: a folder or URI.

    Raises:
        DataError: nothing there, a checksum that does not fit, a format or preparation that this
            version does not know.
        StorageError: it cannot be read.
    """
    if not storage.exists(storage.join(place, MANIFEST)):
        run = storage.exists(storage.join(place, "model", MANIFEST))
        hint = f"say {storage.join(place, 'model')}" if run else "check the path"
        raise DataError(f"{place} is no model directory: it has no {MANIFEST}; {hint}")
    manifest = json_files.read_manifest(storage.join(place, MANIFEST))
    try:
        if manifest["format"] != FORMAT:
            raise DataError(
                f"{place} has format {manifest['format']!r} where nanograd {__version__} reads "
                f"{FORMAT!r}; use the version that wrote it or train again"
            )
        _refuse_unknown(place, "file", manifest["files"], (*_FILES, _CARD))
        files = {name: _read_checked(place, name, manifest["files"][name]) for name in _FILES}
        config, tensors = json.loads(files["config.json"]), load_tensors(files["model.safetensors"])
        _check_names(place, config, tensors)
        return _assemble(manifest, config, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise DataError(
            f"{place} cannot be read as a model ({error}); restore it or train again"
        ) from error


def _read_checked(place: str, name: str, expected: str) -> bytes:
    file = storage.join(place, name)
    data = storage.read(file)
    if storage.checksum(data) != expected:
        raise DataError(
            f"{file} is damaged: its SHA-256 is not the one in {MANIFEST}; "
            "restore the model directory or train again"
        )
    return data


def _check_names(place: str, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    """What a later version adds must not be passed over: it would change the scores."""
    if not config["nets"]:
        raise ValueError("it has no nets")
    _refuse_unknown(place, "setting", config, ("format", "nets"))
    for meaning in config["nets"]:
        _refuse_unknown(place, "setting", meaning, _MEANING)
        for part, known in _MEANING.items():
            _refuse_unknown(place, "setting", meaning[part], known)
    numbers = range(len(config["nets"]))
    meant = [f"{number}.{name}" for number in numbers for name in _TENSORS]
    _refuse_unknown(place, "tensor", tensors, meant)


def _refuse_unknown(place: str, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise DataError(
            f"{place} has a {what} {unknown[0]!r}, which nanograd {__version__} does not know; use "
            "the version that wrote it or train again"
        )


def _assemble(
    manifest: dict[str, Any], config: dict[str, Any], arrays: dict[str, NDArray[Any]]
) -> Model:
    nets = tuple(
        _net(meaning, {name: arrays[f"{number}.{name}"] for name in _TENSORS})
        for number, meaning in enumerate(config["nets"])
    )
    structure = ("format", "files", "params_sha256", "versions")
    about = {key: value for key, value in manifest.items() if key not in structure}
    return Model(nets=nets, about=about)


def _net(meaning: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Net:
    architecture = Architecture(**meaning["architecture"])
    if sum(array.size for array in arrays.values()) != architecture.num_parameters:
        raise ValueError(f"its tensors do not make {architecture.hidden} hidden units")
    zeros = np.zeros(architecture.num_parameters, np.float32)
    params = Params(zeros, architecture.hidden)
    for name, array in arrays.items():
        if array.dtype != np.float32 or array.shape != getattr(params, name).shape:
            raise ValueError(f"tensor {name} is {array.dtype} {array.shape}")
        getattr(params, name)[...] = array
    if not np.isfinite(params.vector).all():
        raise ValueError("a parameter is not finite")
    params.vector.flags.writeable = False
    preparation = Preparation(**meaning["preparation"])
    return Net(architecture=architecture, params=params, preparation=preparation)
