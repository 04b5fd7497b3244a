"""A trained model: one net or an ensemble, with the pixel preparation of each net.

A model directory contains:

    model.safetensors  0.w1, 0.b1, 0.w2, 0.b2 of the first net, 1.w1, ...; reference.means, ...
    config.json        architecture and pixel preparation of each net; temperature
    README.md          the model card, which users may edit
    manifest.json      provenance, and the SHA-256 of the first two files; written last

It contains no pickles. `load` refuses a directory whose checksums do not match, or that has a
format, file, setting or tensor that this version does not know. `digits/` beside this module is
the directory of the model in this package, which `scripts/make_model.py` makes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from os import PathLike, fsdecode
from platform import python_version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nanograd import __version__
from nanograd.digits.dataset import NUM_CLASSES, NUM_PIXELS
from nanograd.digits.preparation import Preparation, as_rows, deskew_images, scale
from nanograd.errors import ArgumentError, DataError, StorageError, needs_package
from nanograd.models.reference import REFERENCE_TENSORS, Reference, to_probabilities
from nanograd.nn import mlp
from nanograd.nn.mlp import Architecture, Params
from nanograd.runtime import json_files, process, storage
from nanograd.runtime.arrays import Bytes, Floats, Ints
from nanograd.runtime.json_files import JsonObject
from nanograd.settings.fields import Place

FORMAT = "nanograd-model-2"
MANIFEST, CARD = "manifest.json", "README.md"
BUILT_IN = f"built into nanograd {__version__}"  # names the model in this package in outputs

HUB = "hf://"
_TENSORS = ("w1", "b1", "w2", "b2")
_FILES = ("model.safetensors", "config.json")
# Entries of the manifest that are not part of `Model.about`.
_STRUCTURE = ("format", "files", "params_sha256", "versions")
# Settings of a net in config.json, by section.
_SETTINGS = {
    "architecture": ("hidden", "activation", "loss"),
    "preparation": ("name", "version", "width", "height"),
}
# Rows in one matrix product; with more rows, the hidden layer does not fit into the cache.
CHUNK_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class Net:
    """A trained net."""

    params: Params
    preparation: Preparation  # converts pixels to inputs

    @property
    def architecture(self) -> Architecture:
        """Layers of the net."""
        return self.params.architecture

    def config(self) -> JsonObject:
        """Return the net's entry in `config.json`."""
        return {
            section: {name: getattr(getattr(self, section), name) for name in names}
            for section, names in _SETTINGS.items()
        }


class Assessment(NamedTuple):
    """Predictions of a model for N images."""

    probabilities: Floats  # (N, 10) float32 in [0, 1]; the most probable class is the prediction
    unfamiliarity: Floats  # (N,) float32 in [0, 1]; above 0.5 if the image resembles no digit


def mean_scores(nets: Sequence[Net], images: NDArray[Any]) -> Floats:
    """Average the scores of the nets over an ensemble; return (N, C) float32 in [0, 1].

    The temperature is not applied. The images are (N, D), before the preparation of their pixels:
    digits are (N, 784) uint8, ink 255 on 0.
    """
    scores = np.empty((len(images), nets[0].architecture.classes), np.float32)
    for chunk, part, _ in _score_chunks(nets, images):
        scores[chunk] = part
    return scores


def _score_chunks(
    nets: Sequence[Net], images: NDArray[Any]
) -> Iterator[tuple[slice, Floats, Bytes]]:
    """Yield slices of rows, their mean scores, and their images as deskewed for the first net."""
    for start in range(0, len(images), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        pixels = [deskew_images(net.preparation, images[chunk]) for net in nets]
        scores = [
            mlp.predict(net.params, scale(net.preparation, each))
            for net, each in zip(nets, pixels, strict=True)
        ]
        yield chunk, np.mean(scores, axis=0), pixels[0]


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Model:
    """A net, or an ensemble of nets whose scores are averaged."""

    nets: tuple[Net, ...]  # at least one
    about: JsonObject  # provenance: data, seed, settings, accuracies; part of the manifest
    reference: Reference  # calibrates the scores, and detects unfamiliar images

    def __repr__(self) -> str:
        nets = ", ".join(f"784-{each.architecture.hidden}-10" for each in self.nets)
        return f"<Model {self.params_sha256()[:12]}: {nets}>"

    def assess(self, images: Bytes) -> Assessment:
        """Compute probabilities and unfamiliarity of (N, 784) uint8 images, ink 255 on 0.

        The temperature converts the mean scores of the nets to probabilities. The unfamiliarity
        compares an image with the training images of the predicted class.
        """
        scores = np.empty((len(images), NUM_CLASSES), np.float32)
        unfamiliarity = np.empty(len(images), np.float32)
        for chunk, part, pixels in _score_chunks(self.nets, images):
            scores[chunk] = part
            unfamiliarity[chunk] = self.reference.unfamiliarity(pixels, part.argmax(axis=1))
        return Assessment(to_probabilities(scores, self.reference.temperature), unfamiliarity)

    def probabilities(self, images: Bytes) -> Floats:
        """Return the probabilities of `assess`, (N, 10) float32."""
        scores = mean_scores(self.nets, images)
        return to_probabilities(scores, self.reference.temperature)

    def compare(self, images: Bytes, digits: Ints) -> Floats:
        """Compute how much images differ from the training images of given digits, (N,), 0 to 9.

        The images are (N, 784) uint8, ink 255 on 0. Return the unfamiliarity, (N,) float32, 0 to 1.
        """
        pixels = deskew_images(self.nets[0].preparation, images)
        return self.reference.unfamiliarity(pixels, digits)

    def predict(self, images: ArrayLike) -> Ints:
        """Classify images; return (N,) int64, 0 to 9.

        Args:
            images: (N, 28, 28) or (N, 784), sized and centred as in MNIST, ink on a background of
                0. Any numeric dtype; the scale is 0..255 or 0..1 (see `nanograd.digits.levels`).

        Raises:
            ArgumentError, a ValueError: the shape is not one of these, the dtype is not numeric, or
                the scale of an image is unclear.
        """
        return np.asarray(self.predict_proba(images).argmax(axis=1), np.int64)

    def predict_proba(self, images: ArrayLike) -> Floats:
        """Compute the probability of each digit for images, given as for `predict`.

        Returns:
            (N, 10) float32 in [0, 1], as in the output of `nanograd predict`. The last bits may
            differ with the number of images.
        """
        with process.one_thread():
            return self.probabilities(as_rows(images))

    def unfamiliarity(self, images: ArrayLike) -> Floats:
        """Compute how much images, given as for `predict`, differ from the training images.

        Returns:
            (N,) float32 in [0, 1]. It is above 0.5 for 6 % of strongly distorted training images.
        """
        with process.one_thread():
            return self.assess(as_rows(images)).unfamiliarity

    def params_sha256(self) -> str:
        """Return the checksum of all parameters, which identifies a training result."""
        return storage.checksum(self._parameters())

    def sha256(self) -> str:
        """Return the checksum of everything that determines a prediction."""
        return storage.checksum(
            json.dumps([net.config() for net in self.nets]).encode()
            + self._parameters()
            + json.dumps(self.reference.config()).encode()
            + b"".join(each.tobytes() for each in self.reference.tensors().values())
        )

    def _parameters(self) -> bytes:
        return b"".join(net.params.vector.tobytes() for net in self.nets)


def save(model: Model, folder: str) -> None:
    """Write a model directory; its manifest is written last."""
    tensors = {
        f"{number}.{name}": np.ascontiguousarray(getattr(net.params, name))
        for number, net in enumerate(model.nets)
        for name in _TENSORS
    }
    tensors |= {f"reference.{name}": each for name, each in model.reference.tensors().items()}
    config = {
        "format": FORMAT,
        "nets": [net.config() for net in model.nets],
        "reference": model.reference.config(),
    }
    files = {"model.safetensors": save_tensors(tensors), "config.json": json_files.encode(config)}
    for name, data in {CARD: model_card(model), **files}.items():
        storage.commit(storage.join(folder, name), data)
    manifest = {
        "format": FORMAT,
        "files": {name: storage.checksum(data) for name, data in files.items()},
        "params_sha256": model.params_sha256(),
        "versions": {"nanograd": __version__, "numpy": np.__version__, "python": python_version()},
        **model.about,
    }
    json_files.commit_manifest(storage.join(folder, MANIFEST), manifest)


def model_card(model: Model) -> bytes:
    """Render README.md in the format of Hugging Face, which begins with metadata in YAML.

    References:
        Mitchell et al. (2019), "Model cards for model reporting"; Hugging Face, "Model cards".
    """
    from jinja2 import Template  # noqa: PLC0415 - slow to import, and only needed to save a model

    text = resources.files("nanograd.models").joinpath("model_card.md").read_text()
    template = Template(text, keep_trailing_newline=True)
    card = str(template.render(nets=model.nets, about=model.about, version=__version__))
    return card.encode(errors="backslashreplace")


def find(place: str) -> str:
    """Return a model directory, or the one in a run directory; DataError if there is none."""
    if place.startswith(HUB):
        return place
    for folder in (place, storage.join(place, "model")):
        if storage.exists(storage.join(folder, MANIFEST)):
            return folder
    problem = "is not a model directory" if storage.exists(place) else "does not exist"
    raise DataError(f"{place} {problem}: there is no {MANIFEST}; check the path")


def load(place: Place | Model | None = None) -> Model:
    """Load a model and verify its checksums.

    The place is a model or run directory, its URI, or hf://USER/NAME for a model on the Hugging
    Face hub; None for the model in this package. A model is returned as it is.

    Raises:
        DataError: the directory is missing or damaged, or this version does not know its format.
        StorageError: the directory cannot be read, or the hub is unreachable.
        UsageError: the package huggingface_hub is needed and missing, or the place is no path.
    """
    if isinstance(place, Model):
        return place
    if not isinstance(place, str | PathLike | None) or place == "":
        raise ArgumentError(f"{place!r} is no path or URI")
    if place is None:
        with resources.as_file(resources.files("nanograd.models").joinpath("digits")) as own:
            return load(own)
    place = fsdecode(place)
    folder = _download(place) if place.startswith(HUB) else find(place)
    manifest = json_files.read_manifest(storage.join(folder, MANIFEST))
    try:
        if manifest["format"] != FORMAT:
            raise DataError(
                f"{folder} has format {manifest['format']!r}, but nanograd {__version__} reads "
                f"{FORMAT!r}; use the version that wrote it or train again"
            )
        files = {name: storage.read(storage.join(folder, name)) for name in _FILES}
        for name, data in files.items():
            if storage.checksum(data) != manifest["files"][name]:
                raise DataError(f"{folder}/{name} is damaged (SHA-256); restore it or train again")
        config, tensors = json.loads(files["config.json"]), load_tensors(files["model.safetensors"])
        if not (entries := config["nets"]):
            raise ValueError("it has no nets")
        expected = [f"{number}.{name}" for number in range(len(entries)) for name in _TENSORS]
        expected += [f"reference.{name}" for name in REFERENCE_TENSORS]
        # Refuse unknown entries, because ignoring them could change predictions.
        for found, known in (
            (manifest["files"], _FILES),
            (config, ("format", "nets", "reference")),
            *((entry, _SETTINGS) for entry in entries),
            *((entry[name], each) for entry in entries for name, each in _SETTINGS.items()),
            (tensors, expected),
        ):
            if unknown := sorted({*found} - {*known}):
                raise DataError(
                    f"{folder} has an entry {unknown[0]!r}, which nanograd {__version__} does not "
                    "know; use the version that wrote it or train again"
                )
        nets = tuple(
            _make_net(each, {name: tensors[f"{number}.{name}"] for name in _TENSORS})
            for number, each in enumerate(entries)
        )
        statistics: JsonObject = {name: tensors[f"reference.{name}"] for name in REFERENCE_TENSORS}
        reference = Reference(**config["reference"], **statistics)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise DataError(
            f"{folder} cannot be read as a model ({error}); restore it or train again"
        ) from error
    about = {key: value for key, value in manifest.items() if key not in _STRUCTURE}
    return Model(nets=nets, about=about, reference=reference)


def _download(uri: str) -> str:
    """Download a model from the Hugging Face hub into its cache; return the local folder.

    References:
        Hugging Face, "HF URIs": hf://USER/NAME or hf://USER/NAME@REVISION.
    """
    with needs_package(HUB, "huggingface_hub"):
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - an optional package
        from huggingface_hub import utils as hub  # noqa: PLC0415
    name, _, revision = uri.removeprefix(HUB).partition("@")
    try:
        wanted = [MANIFEST, *_FILES]
        found: str = snapshot_download(name, revision=revision or None, allow_patterns=wanted)
    except (hub.HfHubHTTPError, OSError, ValueError) as error:
        absent = hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError
        kind = DataError if isinstance(error, absent) else StorageError
        raise kind(f"cannot download {uri}: {' '.join(str(error).split())}") from error
    return found


def _make_net(config: JsonObject, tensors: dict[str, NDArray[Any]]) -> Net:
    """Make a net from its entry in `config.json` and its tensors; ValueError if they disagree."""
    architecture = Architecture(inputs=NUM_PIXELS, classes=NUM_CLASSES, **config["architecture"])
    if sum(tensor.size for tensor in tensors.values()) != architecture.num_parameters:
        raise ValueError(f"its tensors do not have the size of {architecture.hidden} hidden units")
    params = Params(np.zeros(architecture.num_parameters, np.float32), architecture)
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or tensor.shape != getattr(params, name).shape:
            raise ValueError(f"tensor {name} is {tensor.dtype} {tensor.shape}")
        getattr(params, name)[...] = tensor
    if not np.isfinite(params.vector).all():
        raise ValueError("a parameter is not finite")
    params.vector.flags.writeable = False
    return Net(params=params, preparation=Preparation(**config["preparation"]))
