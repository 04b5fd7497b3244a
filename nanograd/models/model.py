"""A trained model: one net or an ensemble, with the pixel preparation of each net.

A model directory holds `model.safetensors` (0.w1, 0.b1, 0.w2, 0.b2 of the first net, 1.w1 and so
on; reference.means and others, see `nanograd.models.reference`), `config.json` (architecture and
pixel preparation of each net, temperature), `README.md` (the model card, which may be edited) and,
written last, `manifest.json` with the SHA-256 of the first two. No pickle is involved. A directory
whose checksums are wrong, or that holds something unknown to this version, is refused.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from platform import python_version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd import __version__
from nanograd.data.dataset import NUM_CLASSES, NUM_PIXELS
from nanograd.digits.preparation import Preparation, as_rows, deskew_images, scale
from nanograd.errors import DataError
from nanograd.models import model_card
from nanograd.models.reference import REFERENCE_TENSORS, Reference, to_probabilities
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

    def config(self) -> dict[str, Any]:
        """Return its entry in `config.json`."""
        return {
            section: {name: getattr(getattr(self, section), name) for name in names}
            for section, names in _SETTINGS.items()
        }


class Assessment(NamedTuple):
    """What a model predicts of N images."""

    probabilities: NDArray[np.float32]  # (N, 10) in [0, 1]; the largest is the prediction
    unfamiliarity: NDArray[np.float32] | None  # (N,) in [0, 1]; None without a reference


@dataclass(frozen=True, kw_only=True, repr=False)
class Model:
    """A net, or an ensemble of nets whose scores are averaged."""

    nets: tuple[Net, ...]  # at least one
    about: dict[str, Any]  # their provenance (data, seed, settings, accuracies), in the manifest
    reference: Reference | None = None  # models of earlier versions have none

    def __repr__(self) -> str:
        nets = ", ".join(f"784-{each.architecture.hidden}-10" for each in self.nets)
        return f"<Model {self.params_sha256()[:12]}: {nets}>"

    def assess(self, images: NDArray[Any]) -> Assessment:
        """Compute probabilities of the digits of (N, 784) uint8 images, ink 255 on 0.

        They are the means of the nets' scores, made probabilities by the temperature; without a
        reference the means themselves. How unfamiliar an image is follows from its predicted class.
        """
        scores = np.empty((len(images), self.nets[0].architecture.classes), np.float32)
        unfamiliarity = np.empty(len(images), np.float32)
        for start in range(0, len(images), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            pixels = [deskew_images(net.preparation, images[chunk]) for net in self.nets]
            scores[chunk] = np.mean(
                [
                    mlp.predict(net.params, scale(net.preparation, each))
                    for net, each in zip(self.nets, pixels, strict=True)
                ],
                axis=0,
            )
            if self.reference is not None:
                best = scores[chunk].argmax(axis=1)
                unfamiliarity[chunk] = self.reference.unfamiliarity(pixels[0], best)
        if self.reference is None:
            return Assessment(scores, None)
        return Assessment(to_probabilities(scores, self.reference.temperature), unfamiliarity)

    def scores(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the scores of `assess`, (N, 10) float32, alone."""
        return self.assess(images).probabilities

    def predict(self, images: ArrayLike) -> NDArray[np.int64]:
        """Classify images.

        Args:
            images: (N, 28, 28) or (N, 784), ink on a background of 0, in the form of MNIST:
                numbers of any type, from 0 to 255 or from 0 to 1 (see `nanograd.data.levels`).

        Returns:
            (N,) int64, 0 to 9.

        Raises:
            ArgumentError: another shape or dtype, or an image whose scale is unclear; a ValueError.
        """
        return np.asarray(self.predict_proba(images).argmax(axis=1), np.int64)

    def predict_proba(self, images: ArrayLike) -> NDArray[np.float32]:
        """Compute the probability of each digit for each image.

        A model that an earlier version trained returns scores that are not calibrated.

        Args:
            images: as in `predict`.

        Returns:
            (N, 10) float32 in [0, 1], with the bits that `nanograd predict` writes.

        Raises:
            ArgumentError: another shape or dtype, or an image whose scale is unclear; a ValueError.
        """
        with process.one_thread():
            return self.scores(as_rows(images))

    def unfamiliarity(self, images: ArrayLike) -> NDArray[np.float32] | None:
        """Compute how unlike the digits of the training set each image is.

        Args:
            images: as in `predict`.

        Returns:
            (N,) float32 in [0, 1]; above 0.5 are six of a hundred strongly distorted training
            images. None if an earlier version trained the model.

        Raises:
            ArgumentError: another shape or dtype, or an image whose scale is unclear; a ValueError.
        """
        with process.one_thread():
            return self.assess(as_rows(images)).unfamiliarity

    def params_sha256(self) -> str:
        """Return the checksum of all parameters, which identifies a training result."""
        return storage.checksum(self._parameters())

    def sha256(self) -> str:
        """Return the checksum of everything that a prediction depends on."""
        config = json.dumps([net.config() for net in self.nets])
        data = config.encode() + self._parameters()
        if self.reference is not None:
            data += json.dumps(self.reference.config()).encode()
            data += b"".join(each.tobytes() for each in self.reference.tensors().values())
        return storage.checksum(data)

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
    config: dict[str, Any] = {"format": FORMAT, "nets": [net.config() for net in model.nets]}
    if model.reference is not None:
        config["reference"] = model.reference.config()
        tensors |= {f"reference.{name}": each for name, each in model.reference.tensors().items()}
    files = {"model.safetensors": save_tensors(tensors), "config.json": json_files.encode(config)}
    card = model_card.write(
        [(net.architecture, net.preparation) for net in model.nets], model.about
    )
    for name, data in {_CARD: card.encode(errors="backslashreplace"), **files}.items():
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
        what = f"is not a model directory: it has no {MANIFEST}"
        if not storage.exists(place):
            what = "does not exist"
        raise DataError(f"{place} {what}; {hint}")
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
        reference = None
        if "reference" in config:
            statistics: dict[str, Any] = {
                name: tensors[f"reference.{name}"] for name in REFERENCE_TENSORS
            }
            reference = Reference(**config["reference"], **statistics)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise DataError(
            f"{place} cannot be read as a model ({error}); restore it or train again"
        ) from error
    about = {key: value for key, value in manifest.items() if key not in _STRUCTURE}
    return Model(nets=nets, about=about, reference=reference)


def _check_names(place: str, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Refuse what a later version may have added: ignoring it would change the scores."""
    if not config["nets"]:
        raise ValueError("it has no nets")
    _refuse_unknown(place, "setting", config, ("format", "nets", "reference"))
    for net in config["nets"]:
        _refuse_unknown(place, "setting", net, _SETTINGS)
        for section, known in _SETTINGS.items():
            _refuse_unknown(place, "setting", net[section], known)
    numbers = range(len(config["nets"]))
    expected = [f"{number}.{name}" for number in numbers for name in _TENSORS]
    if "reference" in config:
        expected += [f"reference.{name}" for name in REFERENCE_TENSORS]
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
