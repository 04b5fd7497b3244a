"""Settings of `nanograd train`, its presets and the settings of each net in an ensemble."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import cycle, islice
from re import fullmatch
from typing import Any, Self

from nanograd.config.command_configs import (
    DATA,
    IMAGE_COLUMN,
    LABEL_COLUMN,
    ReportConfig,
)
from nanograd.config.settings import setting
from nanograd.errors import UsageError
from nanograd.runtime.kernel import NATIVE, PORTABLE

# A setting that affects the bits of the trained model.
hyperparameter = partial(setting, recipe=True)

# Of --optimizer momentum, if none is given.
MOMENTUM = 0.9
# Replace what a preset says about deskewing if digits are not deskewed.
_NOT_DESLANTED = {"width": 0.0, "height": 0.0, "upright": "before"}
# Width and height of the digits of the nets after the first, in turn; where set, they average 3.5
# and 5.5, the values of the preset `accurate`.
_ENSEMBLE_SIZES = ((0.0, 0.0), (3.0, 5.0), (4.0, 6.0))
# Share of the allographs that each net after the first learns. MNIST has few of them, and one net
# that knows them well makes up for the others (docs/accuracy.md).
_ENSEMBLE_ALLOGRAPHS = 0.2

PRESETS: dict[str, dict[str, Any]] = tomllib.loads(
    files("nanograd.config").joinpath("presets.toml").read_text()
)


def default_shards(batch_size: int) -> int:
    """Return S for a batch size.

    A matrix product is efficient with 64 rows or more, and there can be no more workers than
    shards; benchmarks/results has the figures.

    >>> [default_shards(size) for size in (32, 128, 256, 384, 512, 1024)]
    [2, 2, 4, 6, 8, 8]
    """
    return min(max(batch_size // 64, 2), 8)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReportConfig):
    """Settings of `nanograd train`."""

    data: tuple[str, ...] | str = DATA  # one is stored as a tuple
    image_column: str | None = IMAGE_COLUMN
    label_column: str | None = LABEL_COLUMN
    test_split: float | None = setting(
        None,
        "share of the images of a data set without test images that is held out for testing, the "
        "last of each digit [default: 0.1]",
        least=0,
        below=1,
    )
    output: str | None = setting(None, "run directory or URI [default: runs/PRESET-TIME]")
    preset: str = setting(
        "fast",
        "settings to start from; the defaults shown are those of fast",
        choices=tuple(PRESETS),
    )
    shards: int = hyperparameter(
        0,
        "number of shards of the training set, fixed for the run; at most as many workers; 0 = one "
        "for each 64 images of a batch, 2 to 8",
        least=0,
    )
    epochs: int = hyperparameter(12, "passes over the training set", least=1)
    least_rounds: int = hyperparameter(
        0, "minimum optimiser steps: more epochs if needed, for small training sets", least=0
    )
    batch_size: int = hyperparameter(512, "images per round, over all workers", least=1)
    seed: int = hyperparameter(0, "seed of all randomness", least=0, below=2**63)
    hidden: int = hyperparameter(200, "number of hidden units", least=1)
    committee: int = hyperparameter(
        1,
        "number of nets of an ensemble, trained one after another; their scores are averaged",
        least=1,
    )
    activation: str = hyperparameter(
        "relu", "activation function of the hidden layer", choices=("sigmoid", "tanh", "relu")
    )
    loss: str = hyperparameter(
        "cross_entropy",
        "loss function: mse (sigmoid outputs) or cross_entropy (softmax outputs)",
        choices=("mse", "cross_entropy"),
    )
    optimizer: str = hyperparameter("momentum", "optimizer", choices=("sgd", "momentum", "adam"))
    learning_rate: float = hyperparameter(0.3, "peak learning rate", least=0)
    momentum: float | None = hyperparameter(
        None, "decay of the velocity; needs --optimizer momentum [default: 0.9]", least=0, below=1
    )
    schedule: str = hyperparameter(
        "cosine",
        "learning rate schedule; the warm-up scales its first rounds",
        choices=("constant", "cosine"),
    )
    warmup: int = hyperparameter(80, "rounds of linear warm-up", least=0)
    ema: float = hyperparameter(
        0.99,
        "decay of the exponential moving average of the weights; 0 = keep the last weights",
        least=0,
        below=1,
    )
    pixels: str = hyperparameter(
        "deslanted",
        "preparation of pixels: unit (0 to 1), standard (mean 0, deviation 1) or deslanted "
        "(deskewed, then standard)",
        choices=("unit", "standard", "deslanted"),
    )
    width: float = hyperparameter(
        0.0,
        "stretch digits horizontally to this standard deviation of ink, in pixels; 0 = off; needs "
        "--pixels deslanted",
        least=0,
        below=28,
    )
    height: float = hyperparameter(
        0.0,
        "stretch digits vertically to this standard deviation of ink, in pixels; 0 = off; needs "
        "--pixels deslanted",
        least=0,
        below=28,
    )
    elastic: float = hyperparameter(
        0.8,
        "elastic distortion of training images: root mean square displacement in pixels",
        least=0,
        below=28,
    )
    rotation: float = hyperparameter(
        10.0, "maximum rotation of training images, in degrees", least=0, below=180
    )
    scaling: float = hyperparameter(
        0.1, "maximum change of width and height of training images, as a share", least=0, below=1
    )
    shear: float = hyperparameter(
        0.1, "maximum shear of training images, in pixels per row", least=0, below=28
    )
    shift: float = hyperparameter(
        0.5, "maximum shift of training images along each axis, in pixels", least=0, below=28
    )
    stroke: float = hyperparameter(
        0.7, "maximum change of stroke thickness in training images, in pixels", least=0, below=2
    )
    cool_down: float = hyperparameter(
        0.5,
        "linear decay of the distortions, by this share of their strength, over the last 80 % of "
        "the optimiser steps",
        least=0,
        below=1,
    )
    styles: float = hyperparameter(
        0.08,
        "drawn digits added per training image, in shapes that are rare in MNIST: ones with flags, "
        "open fours, hooked nines, ...; nets after the first of an ensemble learn a fifth of them",
        least=0,
        below=1,
    )
    upright: str = hyperparameter(
        "after",
        "deskew deslanted training images before or after distorting them",
        choices=("before", "after"),
    )
    validation_split: float = hyperparameter(
        0.1, "share of the training images held out for validation", least=0, below=1
    )

    kernel: str = hyperparameter(
        NATIVE,
        "code to compute with: native (the fastest of each processor) or portable (the same bits "
        "on every x86-64 processor with AVX2)",
        choices=(NATIVE, PORTABLE),
    )

    tensorboard: bool = setting(
        False, "also write the metrics of each epoch to RUN/tensorboard (package: tensorboardX)"
    )
    mlflow: str | None = setting(
        None,
        "also log settings, metrics and model to this MLflow tracking URI (package: mlflow-skinny)",
    )
    strict: bool = setting(
        False,
        "refuse to go on where numpy, BLAS or processor compute other bits; --kernel portable does",
    )
    ports: str | None = setting(
        None, "TCP ports for the connections between hosts, as A-B [default: any free port]"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.port_range()
        if self.momentum is None and self.optimizer == "momentum":
            object.__setattr__(self, "momentum", MOMENTUM)
        if not self.shards:  # before it is recorded: the number is part of the identity of a run
            object.__setattr__(
                self, "shards", min(default_shards(self.batch_size), self.batch_size)
            )
        if self.batch_size < self.shards:
            raise UsageError(
                f"--batch-size {self.batch_size} is less than --shards {self.shards}: every shard "
                "needs an image per round; raise --batch-size or lower --shards"
            )
        if self.workers is not None and self.workers > self.shards:
            raise UsageError(
                f"--workers {self.workers} is more than --shards {self.shards}: every worker needs "
                "a shard; lower --workers or raise --shards"
            )
        for flag, is_given, setting_, needed in (
            ("--momentum", self.momentum is not None, "optimizer", "momentum"),
            ("--width", self.width, "pixels", "deslanted"),
            ("--height", self.height, "pixels", "deslanted"),
            ("--upright after", self.upright == "after", "pixels", "deslanted"),
        ):
            if is_given and (actual := getattr(self, setting_)) != needed:
                raise UsageError(
                    f"{flag} has no effect with --{setting_} {actual}; "
                    f"leave it out or use --{setting_} {needed}"
                )

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Create settings from layers of values, all of which override the preset they name."""
        given = {name: value for layer in layers for name, value in layer.items()}
        preset = PRESETS.get(str(given.get("preset")), {})
        if "epochs" in given:  # an explicit number of epochs is exact
            preset = {**preset, "least_rounds": 0}
        deslanted = given.get("pixels", "deslanted") == "deslanted"
        return super().resolve(preset, {} if deslanted else _NOT_DESLANTED, given)

    @property
    def is_strict(self) -> bool:
        """Whether to refuse to go on where other bits are computed."""
        return self.strict or self.kernel == PORTABLE

    def port_range(self) -> range:
        """Return the ports for connections between hosts; 0 alone for any."""
        if self.ports is None:
            return range(1)
        match = fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", self.ports)
        first, last = map(int, match.groups()) if match else (0, 0)
        if not 0 < first <= last < 2**16:
            raise UsageError(f"--ports {self.ports} is no range A-B of ports from 1 to 65535")
        return range(first, last + 1)

    def nets(self) -> list["TrainConfig"]:
        """Return the settings of each net to train.

        The nets of an ensemble differ in seed and in the size of digits, and all but the first
        learn fewer allographs.
        """
        deslanted = self.pixels == "deslanted"
        sizes = ((self.width, self.height), *(_ENSEMBLE_SIZES if deslanted else ()))
        return [
            replace(
                self,
                committee=1,
                seed=self.seed + n,
                width=width,
                height=height,
                styles=self.styles * (_ENSEMBLE_ALLOGRAPHS if n else 1.0),
            )
            for n, (width, height) in enumerate(islice(cycle(sizes), self.committee))
        ]
