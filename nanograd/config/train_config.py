"""The settings of `train`, and what the nets of a committee make of them.

Deep functions take the values they need, never a config.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Self

from nanograd.config.command_configs import ReportConfig
from nanograd.config.settings import setting
from nanograd.errors import UsageError

# What a preset says of digits set upright means nothing for others.
_AS_THEY_STAND = {"width": 0.0, "height": 0.0, "upright": "before"}
# What the nets of a committee after the first make of digits, in turn: width and height; they are
# 3.5 and 5.5 in the mean.
_SIZES = ((0.0, 0.0), (3.0, 5.0), (4.0, 6.0))
# How many digits of other styles they learn, as a share of what the first learns: MNIST has next to
# none of them, and one net that knows them well makes up for the others (docs/accuracy.md).
_FEWER_STYLES = 0.2


PRESETS: dict[str, dict[str, Any]] = {
    # The original's net and loss: sigmoid twice, mean squared error, plain SGD.
    # The warm-up is not for taste: at the start all hidden outputs are near 1/2, the curvature
    # along their mean is about 6, and a rate above 1/3 would saturate every output at once.
    "classic": {
        "activation": "sigmoid",
        "loss": "mse",
        "optimizer": "sgd",
        "learning_rate": 10.0,
        "warmup": 1000,
        "batch_size": 256,
        "epochs": 30,
        # More epochs than `fast`: digits are set upright once, which costs half as much.
        "upright": "before",
        "cool_down": 0.0,
    },
    # Still 784-200-10, with today's choices: the fields' defaults.
    "fast": {},
    # As accurate as one hidden layer gets here in minutes: six times the units, more passes.
    "accurate": {
        "hidden": 1200,
        "epochs": 120,
        "least_rounds": 1200,
        # 0.3 makes as few errors, but a held-out loss that is a tenth higher.
        "learning_rate": 0.1,
        "ema": 0.995,
        # Twice those of `fast` at first, so that so many passes do not exhaust them, and as strong
        # at the end, so that the net settles on digits as people write them.
        "elastic": 1.7,
        "rotation": 15.0,
        "scaling": 0.2,
        "cool_down": 0.55,
        # Matrix products of 128 rows are faster than of 64; four workers still have one each.
        "shards": 4,
        "width": 3.5,
        "height": 5.5,
        "validation_split": 0.0,
    },
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ReportConfig):
    """Settings of `nanograd train`."""

    data: str = setting("auto", "auto, mnist, sample, or a path or URI of IDX or CSV files")
    output: str | None = setting(None, "run directory or URI [default: runs/PRESET-TIME]")
    preset: str = setting(
        "fast",
        "settings to start from; the defaults shown are those of fast",
        choices=tuple(PRESETS),
    )
    shards: int = setting(8, "fixed parts of the training set", least=1, recipe=True)
    epochs: int = setting(12, "passes over the training set", least=1, recipe=True)
    least_rounds: int = setting(
        0,
        "more epochs, if it takes them to reach so many rounds: for small training sets",
        least=0,
        recipe=True,
    )
    batch_size: int = setting(512, "images a round, over all workers", least=1, recipe=True)
    seed: int = setting(0, "start of all randomness", least=0, below=2**63, recipe=True)
    hidden: int = setting(200, "hidden units", least=1, recipe=True)
    committee: int = setting(
        1, "nets trained one after the other, whose scores are averaged", least=1, recipe=True
    )
    activation: str = setting(
        "relu", "of the hidden layer", choices=("sigmoid", "tanh", "relu"), recipe=True
    )
    loss: str = setting(
        "cross_entropy",
        "mse (sigmoid outputs) or cross_entropy (softmax outputs)",
        choices=("mse", "cross_entropy"),
        recipe=True,
    )
    optimizer: str = setting(
        "momentum",
        "how gradients change parameters",
        choices=("sgd", "momentum", "adam"),
        recipe=True,
    )
    learning_rate: float = setting(0.3, "peak learning rate", least=0, recipe=True)
    momentum: float | None = setting(
        None,
        "decay of the velocity, with --optimizer momentum [default: 0.9]",
        least=0,
        below=1,
        recipe=True,
    )
    schedule: str = setting(
        "cosine",
        "of the learning rate; a warm-up scales its first rounds",
        choices=("constant", "cosine"),
        recipe=True,
    )
    warmup: int = setting(80, "rounds of linear warm-up", least=0, recipe=True)
    ema: float = setting(
        0.99,
        "decay of the average of the weights; 0 keeps the last weights",
        least=0,
        below=1,
        recipe=True,
    )
    pixels: str = setting(
        "deslanted",
        "unit (0 to 1), standard (mean 0, deviation 1) or deslanted (set upright, then standard)",
        choices=("unit", "standard", "deslanted"),
        recipe=True,
    )
    width: float = setting(
        0.0,
        "widen or narrow deslanted digits until their ink deviates so many pixels from its middle; "
        "0 leaves them; the nets of a committee differ in it",
        least=0,
        below=28,
        recipe=True,
    )
    height: float = setting(
        0.0,
        "the same for their height",
        least=0,
        below=28,
        recipe=True,
    )
    elastic: float = setting(
        0.8,
        "bend training images by so many pixels, root mean square",
        least=0,
        below=28,
        recipe=True,
    )
    rotation: float = setting(
        10.0, "turn training images by up to so many degrees", least=0, below=180, recipe=True
    )
    scaling: float = setting(
        0.1,
        "change width and height of training images by up to this share",
        least=0,
        below=1,
        recipe=True,
    )
    shear: float = setting(
        0.1, "lean training images by up to so many pixels a row", least=0, below=28, recipe=True
    )
    shift: float = setting(
        0.5, "move training images by up to so many pixels each way", least=0, below=28, recipe=True
    )
    stroke: float = setting(
        0.7,
        "make strokes of training images thicker or thinner by up to so many pixels",
        least=0,
        below=2,
        recipe=True,
    )
    cool_down: float = setting(
        0.5,
        "weaken the distortions above by this share, little by little in the last 8 of 10 rounds",
        least=0,
        below=1,
        recipe=True,
    )
    styles: float = setting(
        0.1,
        "train on this share of the ones, fours and nines once more, redrawn as they are written "
        "in much of the world: with a flag, of straight strokes, with a tail; all but the first "
        "net of a committee learn a fifth of them",
        least=0,
        below=1,
        recipe=True,
    )
    upright: str = setting(
        "after",
        "set deslanted training images upright before or after they are distorted",
        choices=("before", "after"),
        recipe=True,
    )
    validation_split: float = setting(
        0.1,
        "share of the training images held out to watch the run",
        least=0,
        below=1,
        recipe=True,
    )

    tensorboard: bool = setting(
        False, "write the figures of each epoch to RUN/tensorboard, too (extra: tensorboard)"
    )
    mlflow: str | None = setting(
        None, "MLflow tracking URI to log settings and figures to, too (extra: mlflow)"
    )
    strict: bool = setting(False, "refuse workers whose BLAS or numpy differ from the server's")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < self.shards:
            raise UsageError(
                f"--batch-size {self.batch_size} is less than --shards {self.shards}: "
                "every shard needs an image a round; raise the one or lower the other"
            )
        if self.workers is not None and self.workers > self.shards:
            raise UsageError(
                f"--workers {self.workers} is more than --shards {self.shards}: a worker needs a "
                "shard of its own; lower the one or raise the other"
            )
        if self.momentum is not None and self.optimizer != "momentum":
            raise UsageError(
                f"--momentum has no effect with --optimizer {self.optimizer}; "
                "leave it out or say --optimizer momentum"
            )
        if self.pixels != "deslanted":
            self._refuse_size_and_order()

    def _refuse_size_and_order(self) -> None:
        asked = {
            "--width": self.width,
            "--height": self.height,
            "--upright after": self.upright == "after",
        }
        for flag in (flag for flag, set_ in asked.items() if set_):
            raise UsageError(
                f"{flag} has no effect with --pixels {self.pixels}; "
                "leave it out or say --pixels deslanted"
            )

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Settings from layers of values, all stronger than those of the preset that they name.

        Raises:
            UsageError: an unknown name, a missing or a forbidden value.
        """
        given = {name: value for layer in layers for name, value in layer.items()}
        preset = PRESETS.get(str(given.get("preset")), {})
        if "epochs" in given:  # whoever says how many means so many
            preset = {**preset, "least_rounds": 0}
        upright = given.get("pixels", "deslanted") == "deslanted"
        return super().resolve(preset, {} if upright else _AS_THEY_STAND, given)

    def nets(self) -> list["TrainConfig"]:
        """The settings of each net to train.

        The nets of a committee differ in seed and in the size of digits, and all but the first
        learn fewer styles.
        """
        first = (self.width, self.height)
        sizes = (first, *(_SIZES if self.pixels == "deslanted" else ()))
        return [
            replace(
                self,
                committee=1,
                seed=self.seed + n,
                width=width,
                height=height,
                styles=self.styles * (_FEWER_STYLES if n else 1.0),
            )
            for n, (width, height) in zip(range(self.committee), cycle(sizes), strict=False)
        ]
