"""The spec of `nanograd train`, its presets, and the spec of each net in an ensemble."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from itertools import cycle, islice
from re import fullmatch
from typing import Any, Literal, Self

from nanograd.errors import UsageError
from nanograd.runtime.kernel import NATIVE, PORTABLE
from nanograd.settings.fields import Given, Place, setting
from nanograd.settings.specs import DATA, IMAGE_COLUMN, IMAGE_ROOT, LABEL_COLUMN, ReportSpec

# Default of --momentum for --optimizer momentum.
_MOMENTUM = 0.9
# The value of another setting without which a setting has no effect.
_NEEDS = {
    "momentum": ("optimizer", "momentum"),
    **dict.fromkeys(("width", "height", "deskew"), ("pixels", "deskewed")),
}
# Target width and height of the digits for later nets of an ensemble, used in turn; 0 is off. The
# other two sizes average 3.5 and 5.5, the values of the preset `accurate`.
_ENSEMBLE_SIZES = ((0.0, 0.0), (3.0, 5.0), (4.0, 6.0))
# Nets after the first are trained on this fraction of the synthetic variants. MNIST has few such
# digits, and one net that classifies them well is enough (docs/accuracy.md).
_ENSEMBLE_VARIANTS = 0.2

PRESETS: dict[str, dict[str, Any]] = tomllib.loads(
    files("nanograd.settings").joinpath("presets.toml").read_text()
)

# Settings on which the bits of the model depend.
_net = partial(setting, identity=True, group="Net")
_rare_net = partial(_net, rare=True)
_optimization = partial(setting, identity=True, group="Optimization")
_rare_optimization = partial(_optimization, rare=True)
_images = partial(setting, identity=True, group="Training images", rare=True)
_strength = partial(_images, least=0)
# Settings that have no effect on the bits, unless they pass `identity=True`.
_data = partial(setting, group="Data")
_workers = partial(setting, group="Workers", rare=True)
_output = partial(setting, group="Output")
_rare_output = partial(_output, rare=True)
_SHARE = {"least": 0, "below": 1}


def default_shards(batch_size: int) -> int:
    """Return the batch size divided by 128, but 2 to 8: a shard gets about 128 images of a batch.

    The reason is in docs/decisions/0002-shards-and-tree.md.

    >>> [default_shards(size) for size in (1, 32, 128, 256, 384, 512, 2048)]
    [1, 2, 2, 2, 3, 4, 8]
    """
    return min(max(batch_size // 128, 2), 8, batch_size)


def _effective(values: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that have an effect with those of a later layer."""
    needless = {
        name for name, (other, needed) in _NEEDS.items() if later.get(other, needed) != needed
    }
    return {name: value for name, value in values.items() if name not in needless}


@dataclass(frozen=True, kw_only=True)
class TrainSpec(ReportSpec):
    """Train a net, with Ray workers or in this process."""

    data: Given[Any, tuple[str, ...]] = DATA
    image_column: str | None = IMAGE_COLUMN
    label_column: str | None = LABEL_COLUMN
    image_root: Given[Place | None, str | None] = IMAGE_ROOT
    test_split: float | None = _data(None, **_SHARE, rare=True)
    """share of each digit's images to hold out for testing, if a data set has no test images
    [default: 0.1]"""
    output: Given[Place | None, str | None] = _output(None, place=True)
    """run directory or URI [default: runs/PRESET-TIME]"""
    preset: Literal["classic", "fast", "accurate"] = setting("fast")
    """named set of defaults; the defaults shown here are those of fast"""
    shards: int = _workers(0, least=0, rare=False, identity=True)
    """number of parts into which the training set is divided, which is also the maximum number of
    workers; 0 = one per 128 images of a batch, from 2 to 8"""
    epochs: int = _optimization(12, least=1)
    """passes over the training set"""
    least_rounds: int = _rare_optimization(0, least=0)
    """minimum number of optimizer steps; more epochs are added to reach it"""
    batch_size: int = _optimization(512, least=1)
    """images per round (training step), of all workers together"""
    seed: int = _optimization(0, least=0, below=2**63)
    """random seed"""
    resume_from: Given[Place | None, str | None] = setting(
        None, group="Optimization", rare=True, place=True
    )
    """start a new run from the weights of this model or run [default: random weights]"""
    hidden: int = _net(200, least=1, most=100_000)
    """number of hidden units"""
    ensemble: int = _net(1, least=1, most=1000)
    """number of nets, trained one after another; their probabilities are averaged"""
    activation: Literal["sigmoid", "tanh", "relu"] = _net("relu", rare=True)
    """activation function of the hidden units"""
    loss: Literal["mse", "cross_entropy"] = _rare_net("cross_entropy")
    """loss function: mse (sigmoid outputs) or cross_entropy (softmax outputs)"""
    optimizer: Literal["sgd", "momentum", "adam"] = _optimization("momentum")
    """optimizer"""
    learning_rate: float = _optimization(0.3, least=0)
    """peak learning rate"""
    momentum: float | None = _rare_optimization(None, **_SHARE)
    """momentum coefficient; needs --optimizer momentum [default: 0.9]"""
    schedule: Literal["constant", "cosine"] = _optimization("cosine", rare=True)
    """how the learning rate changes after the warm-up"""
    warmup: int = _optimization(80, least=0, rare=True)
    """number of rounds in which the learning rate rises linearly"""
    ema: float = _rare_optimization(0.99, **_SHARE)
    """decay of the moving average of the weights that the model gets; 0 = the last weights"""
    pixels: Literal["unit", "standard", "deskewed"] = _images("deskewed")
    """pixel preparation: unit (0 to 1), standard (mean 0, standard deviation 1) or deskewed (deskew
    the digit, then standard)"""
    width: float = _strength(0.0, below=28)
    """stretch or squeeze all digits until their ink has about this standard deviation in x, in
    pixels; 0 = off; needs --pixels deskewed"""
    height: float = _strength(0.0, below=28)
    """stretch or squeeze all digits until their ink has about this standard deviation in y, in
    pixels; 0 = off; needs --pixels deskewed"""
    elastic: float = _strength(0.8, below=28)
    """elastic distortion of training images: RMS displacement in pixels"""
    rotation: float = _strength(10.0, below=180)
    """maximum rotation of training images, in degrees"""
    scaling: float = _strength(0.1, below=1)
    """maximum relative change of width and height of training images"""
    shear: float = _strength(0.1, below=28)
    """maximum shear of training images, in pixels per row"""
    shift: float = _strength(0.5, below=28)
    """maximum shift of training images along each axis, in pixels"""
    stroke: float = _strength(0.7, below=2)
    """maximum change of stroke thickness in training images, in pixels"""
    cool_down: float = _strength(0.5, below=1)
    """share by which the strength of the distortions falls, linearly, in the last 80 % of the
    training"""
    variants: float = _strength(0.08, below=1)
    """synthetic digits to add per training image, in shapes that are rare in MNIST (such as ones
    with flags); nets after the first one of an ensemble get a fifth as many"""
    deskew: Literal["before", "after"] | None = _images(None)
    """deskew training images before or after distorting them; needs --pixels deskewed [default:
    after]"""
    validation_split: float = _data(0.1, **_SHARE, identity=True)
    """fraction of the training images to hold out for validation"""
    kernel: Literal["native", "portable"] = _workers(NATIVE, rare=False, identity=True)
    """numeric code: native (the fastest on each CPU) or portable (the same bits on every x86-64 CPU
    with AVX2)"""
    tensorboard: bool = _rare_output(False)
    """also write metrics to RUN/tensorboard (needs the package tensorboardX)"""
    mlflow: str | None = _rare_output(None)
    """also log to this MLflow tracking URI (needs the package mlflow-skinny)"""
    strict: bool = _workers(False)
    """stop if numpy, BLAS or the CPU would change the bits of the model; implied by --kernel
    portable"""
    ports: str | None = _workers(None)
    """range A-B of TCP ports, used if the workers are on several hosts [default: any free port]"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.port_range()
        # Fill in the defaults that depend on other settings, so that the run records their values.
        if self.momentum is None and self.optimizer == "momentum":
            object.__setattr__(self, "momentum", _MOMENTUM)
        if self.deskew is None and self.pixels == "deskewed":
            object.__setattr__(self, "deskew", "after")
        if not self.shards:
            object.__setattr__(self, "shards", default_shards(self.batch_size))
        if self.batch_size < self.shards:
            raise UsageError(
                f"--batch-size {self.batch_size} is less than --shards {self.shards}: every shard "
                "needs an image per round; raise --batch-size or lower --shards"
            )
        if (self.workers or 0) > self.shards:
            raise UsageError(
                f"--workers {self.workers} is more than --shards {self.shards}: every worker needs "
                "a shard; lower --workers or raise --shards"
            )
        for name, (other, needed) in _NEEDS.items():
            is_given = getattr(self, name) != getattr(type(self), name)
            if is_given and (actual := getattr(self, other)) != needed:
                hint = f"leave it out or use --{other} {needed}"
                raise UsageError(f"--{name} has no effect with --{other} {actual}; {hint}")

    @classmethod
    def resolve(cls, *layers: Mapping[str, Any]) -> Self:
        """Create a spec from layers of values, which override the preset that they name.

        A value of an earlier layer that has no effect with a later one is left out: a run stores
        the values of all its settings.
        """
        given = dict[str, Any]()
        for layer in layers:
            given = {**_effective(given, layer), **layer}
        preset = PRESETS.get(str(given.get("preset")), {})
        if "epochs" in given:  # an explicit number of epochs is exact
            preset = {**preset, "least_rounds": 0}
        return super().resolve(_effective(preset, given), given)

    @property
    def is_strict(self) -> bool:
        """Whether to stop if numpy, BLAS or the CPU would change the bits."""
        return self.strict or self.kernel == PORTABLE

    def port_range(self) -> range:
        """Return the ports for connections between hosts; port 0 alone means any free port."""
        if self.ports is None:
            return range(1)
        match = fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", self.ports)
        first, last = map(int, match.groups()) if match else (0, 0)
        if not 0 < first <= last < 2**16:
            raise UsageError(f"--ports {self.ports} is no range A-B of ports from 1 to 65535")
        return range(first, last + 1)

    def nets(self) -> list["TrainSpec"]:
        """Return the spec of each net, with its own seed, size of digits and share of variants."""
        deskewed = self.pixels == "deskewed"
        sizes = ((self.width, self.height), *(_ENSEMBLE_SIZES if deskewed else ()))
        found = []
        for n, (width, height) in enumerate(islice(cycle(sizes), self.ensemble)):
            seed = (self.seed + n) % 2**63
            net = replace(self, ensemble=1, seed=seed, width=width, height=height)
            found.append(replace(net, variants=self.variants * _ENSEMBLE_VARIANTS) if n else net)
        return found
