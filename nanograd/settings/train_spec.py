"""Settings of `nanograd train`, its presets and the settings of each net in an ensemble."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import cycle, islice
from re import fullmatch
from typing import Any, Self

from nanograd.errors import UsageError
from nanograd.runtime.kernel import NATIVE, PORTABLE
from nanograd.settings.fields import setting
from nanograd.settings.specs import (
    DATA,
    IMAGE_COLUMN,
    LABEL_COLUMN,
    ReportSpec,
)

# A setting that affects the bits of the trained model.
hyperparameter = partial(setting, identity=True)

# Of --optimizer momentum, if none is given.
MOMENTUM = 0.9
# Override these preset values if digits are not deskewed.
_NOT_DESKEWED = {"width": 0.0, "height": 0.0, "deskew": "before"}
# Width and height of the digits of the nets after the first, in turn; where set, they average 3.5
# and 5.5, the values of the preset `accurate`.
_ENSEMBLE_SIZES = ((0.0, 0.0), (3.0, 5.0), (4.0, 6.0))
# Fraction of the synthetic variants that each net after the first learns. MNIST has few such
# digits, and one net that has learnt them well is enough (docs/accuracy.md).
_ENSEMBLE_VARIANTS = 0.2

PRESETS: dict[str, dict[str, Any]] = tomllib.loads(
    files("nanograd.settings").joinpath("presets.toml").read_text()
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
class TrainSpec(ReportSpec):
    """Settings of `nanograd train`."""

    data: tuple[str, ...] = DATA
    image_column: str | None = IMAGE_COLUMN
    label_column: str | None = LABEL_COLUMN
    test_split: float | None = setting(
        None,
        "share of each digit's images to hold out for testing, if a data set has no test images "
        "[default: 0.1]",
        least=0,
        below=1,
        group="Data",
        rare=True,
    )
    output: str | None = setting(
        None, "run directory or URI [default: runs/PRESET-TIME]", group="Output"
    )
    preset: str = setting(
        "fast",
        "named set of defaults; the defaults shown here are those of fast",
        choices=tuple(PRESETS),
    )
    shards: int = hyperparameter(
        0,
        "parts of the training set, fixed for the run; the maximum number of workers; 0 = one per "
        "64 images of a batch, from 2 to 8",
        least=0,
        group="Workers",
    )
    epochs: int = hyperparameter(12, "passes over the training set", least=1, group="Optimization")
    least_rounds: int = hyperparameter(
        0,
        "minimum number of optimizer steps; small training sets get more epochs",
        least=0,
        group="Optimization",
        rare=True,
    )
    batch_size: int = hyperparameter(
        512, "images per round, summed over all workers", least=1, group="Optimization"
    )
    seed: int = hyperparameter(0, "random seed", least=0, below=2**63, group="Optimization")
    hidden: int = hyperparameter(200, "number of hidden units", least=1, group="Net")
    ensemble: int = hyperparameter(
        1,
        "number of nets, trained one after another; their probabilities are averaged",
        least=1,
        group="Net",
    )
    activation: str = hyperparameter(
        "relu",
        "activation function of the hidden units",
        choices=("sigmoid", "tanh", "relu"),
        group="Net",
        rare=True,
    )
    loss: str = hyperparameter(
        "cross_entropy",
        "loss function: mse (sigmoid outputs) or cross_entropy (softmax outputs)",
        choices=("mse", "cross_entropy"),
        group="Net",
        rare=True,
    )
    optimizer: str = hyperparameter(
        "momentum", "optimizer", choices=("sgd", "momentum", "adam"), group="Optimization"
    )
    learning_rate: float = hyperparameter(0.3, "peak learning rate", least=0, group="Optimization")
    momentum: float | None = hyperparameter(
        None,
        "momentum coefficient; needs --optimizer momentum [default: 0.9]",
        least=0,
        below=1,
        group="Optimization",
        rare=True,
    )
    schedule: str = hyperparameter(
        "cosine",
        "learning rate schedule, after the warm-up",
        choices=("constant", "cosine"),
        group="Optimization",
        rare=True,
    )
    warmup: int = hyperparameter(
        80, "rounds of linear learning rate warm-up", least=0, group="Optimization", rare=True
    )
    ema: float = hyperparameter(
        0.99,
        "decay of the exponential moving average of the weights; 0 = use the last weights",
        least=0,
        below=1,
        group="Optimization",
        rare=True,
    )
    pixels: str = hyperparameter(
        "deskewed",
        "pixel preparation: unit (0 to 1), standard (mean 0, standard deviation 1) or deskewed "
        "(deskew the digit, then standard)",
        choices=("unit", "standard", "deskewed"),
        group="Training images",
        rare=True,
    )
    width: float = hyperparameter(
        0.0,
        "scale digits to this width, measured as the standard deviation of ink in pixels; 0 = off; "
        "needs --pixels deskewed",
        least=0,
        below=28,
        group="Training images",
        rare=True,
    )
    height: float = hyperparameter(
        0.0,
        "scale digits to this height, measured as the standard deviation of ink in pixels; 0 = "
        "off; needs --pixels deskewed",
        least=0,
        below=28,
        group="Training images",
        rare=True,
    )
    elastic: float = hyperparameter(
        0.8,
        "elastic distortion of training images: RMS displacement in pixels",
        least=0,
        below=28,
        group="Training images",
        rare=True,
    )
    rotation: float = hyperparameter(
        10.0,
        "maximum rotation of training images, in degrees",
        least=0,
        below=180,
        group="Training images",
        rare=True,
    )
    scaling: float = hyperparameter(
        0.1,
        "maximum relative change of width and height of training images",
        least=0,
        below=1,
        group="Training images",
        rare=True,
    )
    shear: float = hyperparameter(
        0.1,
        "maximum shear of training images, in pixels per row",
        least=0,
        below=28,
        group="Training images",
        rare=True,
    )
    shift: float = hyperparameter(
        0.5,
        "maximum shift of training images along each axis, in pixels",
        least=0,
        below=28,
        group="Training images",
        rare=True,
    )
    stroke: float = hyperparameter(
        0.7,
        "maximum change of stroke thickness in training images, in pixels",
        least=0,
        below=2,
        group="Training images",
        rare=True,
    )
    cool_down: float = hyperparameter(
        0.5,
        "fraction by which the distortions decrease, linearly, over the last 80 % of the optimizer "
        "steps",
        least=0,
        below=1,
        group="Training images",
        rare=True,
    )
    variants: float = hyperparameter(
        0.08,
        "synthetic digits in shapes that are rare in MNIST (ones with flags, open fours, ...), per "
        "training image; later nets of an ensemble get a fifth as many",
        least=0,
        below=1,
        group="Training images",
        rare=True,
    )
    deskew: str = hyperparameter(
        "after",
        "deskew training images before or after distorting them; needs --pixels deskewed",
        choices=("before", "after"),
        group="Training images",
        rare=True,
    )
    validation_split: float = hyperparameter(
        0.1,
        "fraction of the training images to hold out for validation",
        least=0,
        below=1,
        group="Data",
    )

    kernel: str = hyperparameter(
        NATIVE,
        "numeric code: native (the fastest on each CPU) or portable (the same bits on every x86-64 "
        "CPU with AVX2)",
        choices=(NATIVE, PORTABLE),
        group="Workers",
    )

    tensorboard: bool = setting(
        False,
        "also write the metrics of each epoch to RUN/tensorboard (package: tensorboardX)",
        group="Output",
        rare=True,
    )
    mlflow: str | None = setting(
        None,
        "also log settings, metrics and model to this MLflow tracking URI (package: mlflow-skinny)",
        group="Output",
        rare=True,
    )
    strict: bool = setting(
        False,
        "stop if numpy, BLAS or the CPU would change the bits; implied by --kernel portable",
        group="Workers",
        rare=True,
    )
    ports: str | None = setting(
        None,
        "range A-B of TCP ports for connections between hosts [default: any free port]",
        group="Workers",
        rare=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_shared(self.output)
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
            ("--width", self.width, "pixels", "deskewed"),
            ("--height", self.height, "pixels", "deskewed"),
            ("--deskew after", self.deskew == "after", "pixels", "deskewed"),
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
        deskewed = given.get("pixels", "deskewed") == "deskewed"
        return super().resolve(preset, {} if deskewed else _NOT_DESKEWED, given)

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

    def nets(self) -> list["TrainSpec"]:
        """Return the settings of each net to train.

        The nets of an ensemble differ in seed and in the size of digits, and all but the first
        learn fewer variants.
        """
        deskewed = self.pixels == "deskewed"
        sizes = ((self.width, self.height), *(_ENSEMBLE_SIZES if deskewed else ()))
        return [
            replace(
                self,
                ensemble=1,
                seed=self.seed + n,
                width=width,
                height=height,
                variants=self.variants * (_ENSEMBLE_VARIANTS if n else 1.0),
            )
            for n, (width, height) in enumerate(islice(cycle(sizes), self.ensemble))
        ]
