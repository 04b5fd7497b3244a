"""A trained model: one net or an ensemble, with the pixel preparation of each net.

A model directory holds `model.safetensors` (0.w1, 0.b1, 0.w2, 0.b2 of the first net, 1.w1 and so
on), `config.json` (architecture and pixel preparation of each net), `README.md` (the model card,
which may be edited) and, written last, `manifest.json` with the SHA-256 of the first two. No pickle
is involved. A directory whose checksums are wrong, or that holds something unknown to this version,
is refused.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from platform import python_version
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd import __version__
from nanograd.data.dataset import NUM_CLASSES, NUM_PIXELS
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
# Entries of the manifest that are not part of `Model.about`.
_STRUCTURE = ("format", "files", "params_sha256", "versions")
_SETTINGS = {
    "architecture": ("hidden", "activation", "loss"),
    "preparation": ("name", "version", "width", "height"),
}
# Rows in one matrix product: the hidden layer of a larger chunk does not fit into the cache.
_CHUNK_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Net:
    """A trained net."""

    params: Params
    preparation: Preparation  # turns pixels into its inputs

    @property
    def architecture(self) -> Architecture:
        """Its layers."""
        return self.params.architecture

    def scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the scores of (B, 784) uint8 images: (B, 10) float32."""
        return mlp.predict(self.params, prepare(self.preparation, images))

    def config(self) -> dict[str, Any]:
        """Return its entry in `config.json`."""
        return {
            section: {name: getattr(getattr(self, section), name) for name in names}
            for section, names in _SETTINGS.items()
        }


@dataclass(frozen=True, kw_only=True)
class Model:
    """A net, or an ensemble of nets whose scores are averaged."""

    nets: tuple[Net, ...]  # at least one
    about: dict[str, Any]  # their provenance (data, seed, settings, accuracies), in the manifest

    def scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the mean of the nets' scores of (N, 784) uint8 images, ink 255 on 0.

        Returns:
            (N, 10) float32 in [0, 1]; the largest is the prediction.
        """
        result = np.empty((len(images), self.nets[0].architecture.classes), np.float32)
        for start in range(0, len(images), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            scores = [net.scores(images[chunk]) for net in self.nets]
            result[chunk] = np.mean(scores, axis=0)
        return result

    def predict(self, images: ArrayLike) -> NDArray[np.int64]:
        """Classify images.

        Args:
            images: (N, 28, 28) or (N, 784), ink on a background of 0, in the form of MNIST: whole
                numbers from 0 to 255 or floats from 0 to 1.

        Returns:
            (N,) int64, 0 to 9.

        Raises:
            ValueError: another shape or dtype, or values out of range.
        """
        return np.asarray(self.predict_proba(images).argmax(axis=1), np.int64)

    def predict_proba(self, images: ArrayLike) -> NDArray[np.float32]:
        """Compute ten scores for each image.

        They are not calibrated probabilities, and with `mse` a row does not sum to 1.

        Args:
            images: as in `predict`.

        Returns:
            (N, 10) float32 in [0, 1], with the bits that `nanograd predict` writes.

        Raises:
            ValueError: another shape or dtype, or values out of range.
        """
        with process.one_thread():
            return self.scores(as_rows(images))

    def params_sha256(self) -> str:
        """Return the checksum of all parameters, which identifies a training result."""
        return storage.checksum(self._parameters())

    def sha256(self) -> str:
        """Return the checksum of everything that a prediction depends on."""
        config = json.dumps([net.config() for net in self.nets])
        return storage.checksum(config.encode() + self._parameters())

    def _parameters(self) -> bytes:
        return b"".join(net.params.vector.tobytes() for net in self.nets)


def save(model: Model, place: str) -> None:
    """Write a model directory, its manifest last.

    Raises:
        StorageError: it cannot be written.
    """
    tensors = {
        f"{number}.{name}": np.ascontiguousarray(getattr(net.params, name))
        for number, net in enumerate(model.nets)
        for name in _TENSORS
    }
    config = {"format": FORMAT, "nets": [net.config() for net in model.nets]}
    files = {"model.safetensors": save_tensors(tensors), "config.json": json_files.encode(config)}
    card = model_card.write(
        [(net.architecture, net.preparation) for net in model.nets], model.about
    )
    for name, data in {_CARD: card.encode(), **files}.items():
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
    """Read a model directory and check every file against the manifest.

    Raises:
        DataError: not a model directory, a wrong checksum, an unknown format or preparation.
        StorageError: it cannot be read.
    """
    if not storage.exists(storage.join(place, MANIFEST)):
        below = storage.join(place, "model")
        found = storage.exists(storage.join(below, MANIFEST))
        hint = f"use {below}" if found else "check the path"
        raise DataError(f"{place} is not a model directory: it has no {MANIFEST}; {hint}")
    manifest = json_files.read_manifest(storage.join(place, MANIFEST))
    try:
        if manifest["format"] != FORMAT:
            raise DataError(
                f"{place} has format {manifest['format']!r}, but nanograd {__version__} reads "
                f"{FORMAT!r}; use the version that wrote it or train again"
            )
        _refuse_unknown(place, "file", manifest["files"], (*_FILES, _CARD))
        files = {name: storage.read(storage.join(place, name)) for name in _FILES}
        for name, data in files.items():
            if storage.checksum(data) != manifest["files"][name]:
                raise DataError(
                    f"{storage.join(place, name)} is damaged: its SHA-256 is not the one in "
                    f"{MANIFEST}; restore the model directory or train again"
                )
        config, tensors = json.loads(files["config.json"]), load_tensors(files["model.safetensors"])
        _check_names(place, config, tensors)
        nets = tuple(
            _net(each, {name: tensors[f"{number}.{name}"] for name in _TENSORS})
            for number, each in enumerate(config["nets"])
        )
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise DataError(
            f"{place} cannot be read as a model ({error}); restore it or train again"
        ) from error
    about = {key: value for key, value in manifest.items() if key not in _STRUCTURE}
    return Model(nets=nets, about=about)


def _check_names(place: str, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Refuse what a later version may have added: ignoring it would change the scores."""
    if not config["nets"]:
        raise ValueError("it has no nets")
    _refuse_unknown(place, "setting", config, ("format", "nets"))
    for net in config["nets"]:
        _refuse_unknown(place, "setting", net, _SETTINGS)
        for section, known in _SETTINGS.items():
            _refuse_unknown(place, "setting", net[section], known)
    numbers = range(len(config["nets"]))
    expected = [f"{number}.{name}" for number in numbers for name in _TENSORS]
    _refuse_unknown(place, "tensor", tensors, expected)


def _refuse_unknown(place: str, kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(names) - set(known)):
        raise DataError(
            f"{place} has a {kind} {unknown[0]!r}, which nanograd {__version__} does not know; use "
            "the version that wrote it or train again"
        )


def _net(config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Net:
    architecture = Architecture(inputs=NUM_PIXELS, classes=NUM_CLASSES, **config["architecture"])
    if sum(tensor.size for tensor in tensors.values()) != architecture.num_parameters:
        raise ValueError(f"its tensors do not make {architecture.hidden} hidden units")
    params = Params(np.zeros(architecture.num_parameters, np.float32), architecture)
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.shape != getattr(params, name).shape:
            raise ValueError(f"tensor {name} is {tensor.dtype} {tensor.shape}")
        getattr(params, name)[...] = tensor
    if not np.isfinite(params.vector).all():
        raise ValueError("a parameter is not finite")
    params.vector.flags.writeable = False
    return Net(params=params, preparation=Preparation(**config["preparation"]))
