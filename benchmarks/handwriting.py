"""Claim: photos, scans and drawings of a digit are classified nearly as well as MNIST's own images.

Two nets (the presets `fast` and `accurate` trained on all of MNIST, or the nets of `--models`)
classify

- the development set (`--pictures`): photos, scans and drawings by series, and optdigits, 946
  bitmaps of 32 x 32 pixels;
- MNIST's 10,000 test images as they are, and as PNG files through the normaliser;
- `--photos` test images for each kind of photo that `simulators/photos.py` simulates.

A refused picture counts as an error. The contact sheet shows at most `--drawn` misclassified
pictures of a group, each with the input of the nets, the label and the predictions.

Speed is the speed of decoding and normalising on one core, without the net. It is the median of
several passes over the same files. These passes take turns with passes that only decode: once as
the normaliser decodes (a large JPEG file at a fraction of its size), and once as Pillow does by
default (at full size).

The rules of the normaliser were chosen on the development set and on photos simulated from training
images (`--images train`). Test images are not used to choose settings.
"""

import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter

from common import Row, arguments, report
from contact_sheet import contact_sheet
from PIL import Image
from samples import Result, as_png, classify, development, optdigits, photo, simulated

from nanograd.digits.dataset import Dataset
from nanograd.images import sources
from nanograd.models.model import Model, load
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise
from nanograd.runtime import process
from simulators.scenes import KINDS

# A row of the report, and the misclassified pictures to draw.
Group = tuple[Row, list[Result]]
Models = Mapping[str, Model]


def measure(options: Namespace, models: Models) -> Iterator[Group]:
    """Measure the selected groups."""
    data = sources.load([options.data])
    chosen = data.test if options.images == "test" else data.train
    if "development" in options.only:
        yield from measure_development(options.pictures, models)
    if "mnist" in options.only:
        yield from measure_mnist(chosen, models)
    if "photos" in options.only:
        yield from measure_photos(chosen, models, options.photos)
    if "speed" in options.only:
        yield from measure_speed(chosen, options.repeats)


def measure_development(folder: Path, models: Models) -> Iterator[Group]:
    """Measure the development set, by series and in total."""
    series = {name: classify(samples, models) for name, samples in development(folder).items()}
    for name in sorted(series):
        yield _figures(name, series[name], named=True)
    for name, of_paper, least in (("photos and scans", True, 96.0), ("drawings", False, 100.0)):
        members = [series[each] for each in series if each.startswith("drawn") != of_paper]
        yield _figures(f"all {name}", list(chain.from_iterable(members)), least, drawn=False)
    yield _figures("optdigits", classify(optdigits(folder), models), 98.5, named=True)


def measure_mnist(images: Dataset, models: Models) -> Iterator[Group]:
    """Measure MNIST's images as they are, and as PNG files through the normaliser."""
    direct = {
        name: 100 * float((model.probabilities(images.images).argmax(1) == images.labels).mean())
        for name, model in models.items()
    }
    shares = {name: f"{share:.2f} %" for name, share in direct.items()}
    yield {"group": "MNIST, direct", "pictures": len(images)} | shares, []
    results = classify(as_png(images), models)
    same = sum(
        each.image is not None and bool((each.image.ravel() == image).all())
        for each, image in zip(results, images.images, strict=True)
    )
    row, _ = _figures("MNIST as PNG", results, drawn=False)
    yield row | {"to reach": "direct - 0.05", "which": f"{same} unchanged"}, []


def measure_photos(images: Dataset, models: Models, number: int) -> Iterator[Group]:
    """Measure simulated photos, by kind and in total."""
    everything: list[Result] = []
    for kind in KINDS:
        results = classify(simulated(images, kind, number), models)
        everything += results
        yield _figures(f"simulated, {kind}", results)
    yield _figures("all simulated photos", everything, 96.0, drawn=False)


def measure_speed(images: Dataset, repeats: int) -> Iterator[Group]:
    """Measure the speed for pictures of MNIST's size, and for large photos beside decoding them."""
    process.keep_freed()  # as `nanograd ingest` does
    small = [sample.data for sample in as_png(images.take(slice(1000)))]
    seconds = timed(small, repeats)
    row = _speed("28 x 28 PNG", len(small), seconds)
    yield row | {"to reach": "5,000 / s"}, []
    large = [photo(images, place, "large picture") for place in range(12)]
    seconds = timed(large, repeats)
    row = _speed("1,600-pixel JPEG", len(large), seconds)
    yield row | {"to reach": "twice decoding it"}, []


def timed(files: Sequence[bytes], repeats: int) -> list[float]:
    """Return seconds per file to decode and normalise, to decode, and to decode at full size."""
    tasks = (lambda data: normalise(decode(data)), decode, _pillow)
    passes = [[_pass(task, files) for task in tasks] for _ in range(repeats)]
    return [median(times) for times in zip(*passes, strict=True)]


def _pass(task: Callable[[bytes], object], files: Sequence[bytes]) -> float:
    began = perf_counter()
    for data in files:
        task(data)
    return (perf_counter() - began) / len(files)


def _pillow(data: bytes) -> None:
    with Image.open(BytesIO(data)) as picture:
        picture.load()


def _figures(
    group: str,
    results: Sequence[Result],
    least: float | None = None,
    *,
    named: bool = False,
    drawn: bool = True,
) -> Group:
    wrong = [each for each in results if not each.all_correct]
    row: Row = {"group": group, "pictures": len(results)}
    for name in results[0].predictions:
        share = 100 * sum(each.is_correct(name) for each in results) / len(results)
        row[name] = f"{share:.2f} %" + (" **no**" if share < (least or 0) else "")
    row |= {
        "to reach": "" if least is None else f"{least:.2f} %",
        "misread by either": len(wrong),
        "refused": sum(each.image is None for each in results),
        "which": "; ".join(map(str, wrong)) if named else "",
    }
    return row, wrong if drawn else []


def _speed(group: str, files: int, seconds: Sequence[float]) -> Row:
    whole, decoding, plain = seconds
    return {
        "group": f"{group}, one core",
        "pictures": files,
        "which": f"{1 / whole:,.0f} / s: {1e6 * whole:,.0f} us each, {1e6 * decoding:,.0f} of them "
        f"decoding ({whole / decoding:.2f} times that); decoding it whole takes "
        f"{1e6 * plain:,.0f} us ({whole / plain:.2f} times that)",
    }


def train(preset: str, data: str, folder: str) -> Model:
    """Train a preset on all of MNIST."""
    flags = ["--preset", preset, "--data", data, "--workers", "0", "--validation-split", "0"]
    subprocess.run(
        [sys.executable, "-m", "nanograd", "train", *flags, "--output", folder],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return load(f"{folder}/model")


def main() -> None:
    """Measure and report."""
    groups = ("development", "mnist", "photos", "speed")
    parser = arguments(__doc__)
    parser.add_argument(
        "--models", nargs="*", default=[], help="model directories [default: train the presets]"
    )
    parser.add_argument(
        "--pictures", type=Path, required=True, help="folder of the development set"
    )
    parser.add_argument("--images", choices=("test", "train"), default="test")
    parser.add_argument("--photos", type=int, default=50, help="photos per kind")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=groups, default=groups)
    parser.add_argument("--sheet", type=Path, help="PNG file for the contact sheet")
    parser.add_argument("--drawn", type=int, default=8, help="misclassified pictures per group")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {Path(each).parent.name: load(each) for each in options.models} or {
            preset: train(preset, options.data, f"{folder}/{preset}")
            for preset in ("fast", "accurate")
        }
    measured = list(measure(options, models))
    if options.sheet:
        chosen = chain.from_iterable(wrong[: options.drawn] for _, wrong in measured)
        contact_sheet(list(chosen)).save(options.sheet)
    report([row for row, _ in measured], options.json)


if __name__ == "__main__":
    main()
