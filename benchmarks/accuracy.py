"""Claim: each ingredient of the preset `accurate` improves it.

A run trains on 50,000 images of MNIST's training set, for `--epochs` epochs instead of the preset's
number. It uses the whole preset, or the preset with one ingredient removed or changed. Its errors
are the number of misclassified images among the other 10,000 images, the validation images. The
test set is not used. Another seed changes the number of errors by about 5, so smaller differences
between single runs mean nothing. The mean validation loss, in nats, is more precise.

Repeating the command resumes an interrupted run.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import numpy as np
from common import Row, arguments, report

from nanograd.digits.dataset import Dataset, split
from nanograd.images import sources
from nanograd.models import model
from nanograd.runtime import process

Settings = dict[str, str]

_HELD_OUT = 1 / 6
_AFFINE = {"rotation": "0", "scaling": "0", "shear": "0", "shift": "0"}
VARIATIONS: dict[str, Settings] = {
    "all": {},
    "deskewed before distortion": {"deskew": "before"},
    "width and height not normalised": {"width": "0", "height": "0"},
    "height not normalised": {"height": "0"},
    "not deskewed": {"pixels": "standard"},
    "no elastic distortion": {"elastic": "0"},
    "no affine distortion": _AFFINE,
    "no variation of strokes": {"stroke": "0"},
    "no distortion": {"elastic": "0", "stroke": "0", **_AFFINE},
    "no cool-down": {"cool-down": "0"},
    "weaker distortion, no cool-down": {
        "elastic": "1",
        "rotation": "10",
        "scaling": "0.1",
        "cool-down": "0",
    },
    "no handwriting variants": {"variants": "0"},
    "last weights instead of their average": {"ema": "0"},
    "constant rate instead of cosine": {"schedule": "constant"},
    "500 hidden units": {"hidden": "500"},
    "200 hidden units": {"hidden": "200"},
}
# Variations in the plot, which would be unreadable with all of them.
_PLOTTED = ("all", "200 hidden units", "no elastic distortion", "not deskewed", "no distortion")


def measure(
    data: str, folder: Path, only: Sequence[str], epochs: int, seeds: Sequence[int]
) -> Iterator[tuple[Row, list[list[int]]]]:
    """Yield a row for each variation, and the errors after each epoch of each seed."""
    training = sources.load([data]).train
    held_out = {seed: split(training, _HELD_OUT, seed)[1] for seed in seeds}
    for name in only or VARIATIONS:
        runs = {seed: train(data, folder, name, epochs, seed) for seed in seeds}
        curves = [errors(place, len(held_out[seed])) for seed, place in runs.items()]
        last = [curve[-1] for curve in curves]
        row: Row = {"preset": name, "runs": len(runs), "epochs": epochs, "errors": mean(last)}
        if len(runs) > 1:
            row |= {"fewest": min(last), "most": max(last)}
        losses = [loss(place, held_out[seed]) for seed, place in runs.items()]
        row["held-out loss"] = round(mean(losses), 4)
        sys.stderr.write(f"{row}\n")
        yield row, curves


def train(data: str, folder: Path, name: str, epochs: int, seed: int) -> Path:
    """Complete one training run, and return its run directory."""
    place = folder / f"{name.replace(' ', '-')}-{epochs}-{seed}"
    settings: Settings = {
        "data": data,
        "preset": "accurate",
        "workers": "0",
        "validation-split": str(_HELD_OUT),
        "epochs": str(epochs),
        "least-rounds": "0",
        "seed": str(seed),
        "output": str(place),
        **VARIATIONS[name],
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    subprocess.run(
        [sys.executable, "-m", "nanograd", "train", *flags], stdout=subprocess.DEVNULL, check=True
    )
    return place


def errors(run: Path, num_images: int) -> list[int]:
    """Return the validation errors of a run after each epoch."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [round(num_images * (1 - row["val_accuracy"])) for row in rows]


def loss(run: Path, images: Dataset) -> float:
    """Return the mean cross-entropy of a run's scores, in nats."""
    with process.one_thread():
        scores = model.load(str(run / "model")).probabilities(images.images)
    scores_of_labels = scores[np.arange(len(images)), images.labels]
    return float(-np.log(np.maximum(scores_of_labels, np.finfo(np.float32).tiny)).mean())


def plot(curves: dict[str, list[list[int]]], place: Path) -> None:
    """Plot validation errors by epoch, averaged over seeds; do nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name in (name for name in _PLOTTED if name in curves):
        mean_errors = np.mean(curves[name], axis=0)
        axes.plot(np.arange(1, len(mean_errors) + 1), mean_errors, label=name)
    axes.set(yscale="log", xlabel="epoch", ylabel="errors on validation images")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()
    figure.savefig(place, dpi=120)


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/accuracy"), help="run directories")
    parser.add_argument("--only", nargs="+", default=[], choices=VARIATIONS)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--plot", type=Path, help="a PNG file")
    options = parser.parse_args()
    measured = measure(options.data, options.runs, options.only, options.epochs, options.seeds)
    rows, curves = zip(*measured, strict=True)
    report(rows, options.json)
    if options.plot is not None:
        plot({row["preset"]: runs for row, runs in zip(rows, curves, strict=True)}, options.plot)


if __name__ == "__main__":
    main()
