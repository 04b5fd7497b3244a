"""Settings of `nanograd train`, its presets and the settings of each net in an ensemble."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import cycle, islice
from typing import Any, Self

from nanograd.config.command_configs import ReportConfig
from nanograd.config.settings import setting
from nanograd.errors import UsageError

# A setting that affects the bits of the trained model.
hyperparameter = partial(setting, recipe=True)

# Replace what a preset says about deskewing if digits are not deskewed.
_NOT_DESLANTED = {"width": 0.0, "height": 0.0, "upright": "before"}
# Width and height of the digits of the nets after the first, in turn; where set, they average 3.5
# and 5.5, the values of the preset `accurate`.
_ENSEMBLE_SIZES = ((0.0, 0.0), (3.0, 5.0), (4.0, 6.0))
# Share of the handwriting variants that each net after the first learns. MNIST has next to none of
# them, and one net that knows them well makes up for the others (docs/accuracy.md).
_ENSEMBLE_VARIANTS = 0.2

PRESETS: dict[str, dict[str, Any]] = tomllib.loads(
    files("nanograd.config").joinpath("presets.toml").read_text()
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReportConfig):
    """Settings of `nanograd train`."""

    data: str = setting(
        "auto", "data set: auto, mnist, sample, or a path or URI of IDX or CSV files"
    )
    output: str | None = setting(None, "run directory or URI [default: runs/PRESET-TIME]")
    preset: str = setting(
        "fast",
        "settings to start from; the defaults shown are those of fast",
        choices=tuple(PRESETS),
    )
    shards: int = hyperparameter(
        8, "number of shards of the training set, fixed for the run", least=1
    )
    epochs: int = hyperparameter(12, "passes over the training set", least=1)
    least_rounds: int = hyperparameter(
        0, "minimum number of rounds (more epochs if needed, for small training sets)", least=0
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
        "stretch deslanted digits horizontally to this standard deviation of ink, in pixels; 0 = "
        "off; varies within an ensemble",
        least=0,
        below=28,
    )
    height: float = hyperparameter(
        0.0,
        "stretch deslanted digits vertically to this standard deviation of ink, in pixels; 0 = "
        "off; varies within an ensemble",
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
        "weaken the distortions above by this share, gradually over the last 80 % of the rounds",
        least=0,
        below=1,
    )
    styles: float = hyperparameter(
        0.1,
        "share of ones, fours and nines added as redrawn handwriting variants: with a flag, of "
        "straight strokes, with a tail; nets after the first of an ensemble learn a fifth of them",
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

    tensorboard: bool = setting(
        False, "also write the metrics of each epoch to RUN/tensorboard (extra: tensorboard)"
    )
    mlflow: str | None = setting(
        None, "also log settings and metrics to this MLflow tracking URI (extra: mlflow)"
    )
    strict: bool = setting(False, "refuse workers whose BLAS or numpy differs from the server's")

    def __post_init__(self) -> None:
        super().__post_init__()
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

    def nets(self) -> list["TrainConfig"]:
        """Return the settings of each net to train.

        The nets of an ensemble differ in seed and in the size of digits, and all but the first
        learn fewer handwriting variants.
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
                styles=self.styles * (_ENSEMBLE_VARIANTS if n else 1.0),
            )
            for n, (width, height) in enumerate(islice(cycle(sizes), self.committee))
        ]
