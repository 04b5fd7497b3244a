"""Claim: photos, scans and drawings of a digit are read nearly as well as MNIST's own images.

One net, the preset `fast` trained on all of MNIST, or `--model`, reads

- the development set (`--pictures`): photos, scans and drawings by series, and optdigits, 946
  bitmaps of 32 x 32 pixels;
- MNIST's 10,000 test images as they are, and as PNG files through the normaliser;
- `--photos` test images for each kind of photo that `tests/photos.py` simulates.

A refused picture counts as misread. The misread ones, `--drawn` of a group at most, are drawn on
the contact sheet: the picture, what the net saw, the label, what was said.

Speed is that of one core for decoding and normalising, without the net: medians of passes over the
same files, in turns with passes that only decode, as the normaliser needs it (large JPEG files at a
fraction of their size) and as Pillow does unasked (whole).

The normaliser's rules were chosen on the development set and on photos simulated from training
images (`--images train`); test images choose nothing.
"""

import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from statistics import median
from time import perf_counter

from common import Row, arguments, report
from contact_sheet import contact_sheet
from PIL import Image
from samples import KINDS, Reading, as_png, development, optdigits, photo, read, simulated

from nanograd import memory
from nanograd.data import mnist
from nanograd.data.dataset import Dataset
from nanograd.data.handwriting import normalise
from nanograd.data.pictures import decode
from nanograd.model import Model, load

# A row of the report, and the misread pictures that are to be drawn.
Group = tuple[Row, list[Reading]]


def measure(options: Namespace, model: Model) -> Iterator[Group]:
    """All groups that were asked for."""
    data = mnist.load(options.data, lambda sentence: None)
    chosen = data.test if options.images == "test" else data.train
    if "development" in options.only:
        yield from measure_development(options.pictures, model)
    if "mnist" in options.only:
        yield from measure_mnist(chosen, model)
    if "photos" in options.only:
        yield from measure_photos(chosen, model, options.photos)
    if "speed" in options.only:
        yield from measure_speed(chosen, options.repeats)


def measure_development(folder: Path, model: Model) -> Iterator[Group]:
    """The development set by series, and together."""
    series = {name: read(samples, model) for name, samples in development(folder).items()}
    for name in sorted(series):
        yield _figures(name, series[name], named=True)
    for name, of_paper, least in (("photos and scans", True, 96.0), ("drawings", False, 100.0)):
        members = [series[each] for each in series if each.startswith("drawn") != of_paper]
        yield _figures(f"all {name}", list(chain.from_iterable(members)), least, drawn=False)
    yield _figures("optdigits", read(optdigits(folder), model), 98.5, named=True)


def measure_mnist(images: Dataset, model: Model) -> Iterator[Group]:
    """MNIST's images as they are, and as PNG files through the normaliser."""
    direct = 100 * float((model.scores(images.images).argmax(1) == images.labels).mean())
    yield {"group": "MNIST, direct", "pictures": len(images), "figure": f"{direct:.2f} %"}, []
    readings = read(as_png(images), model)
    same = sum(
        each.image is not None and bool((each.image.ravel() == image).all())
        for each, image in zip(readings, images.images, strict=True)
    )
    row, _ = _figures("MNIST as PNG", readings, round(direct - 0.05, 2), drawn=False)
    yield row | {"which": f"{same} unchanged"}, []


def measure_photos(images: Dataset, model: Model, number: int) -> Iterator[Group]:
    """Simulated photos by kind, and together."""
    everything: list[Reading] = []
    for kind in KINDS:
        readings = read(simulated(images, kind, number), model)
        everything += readings
        yield _figures(f"simulated, {kind}", readings)
    yield _figures("all simulated photos", everything, 96.0, drawn=False)


def measure_speed(images: Dataset, repeats: int) -> Iterator[Group]:
    """Pictures of MNIST's size in a second, and what large photos take beside their decoding."""
    memory.keep_freed()  # As `nanograd ingest` does.
    small = [sample.data for sample in as_png(images.take(slice(1000)))]
    seconds = timed(small, repeats)
    row = _speed("28 x 28 PNG", len(small), seconds)
    yield row | {"to reach": "5,000 / s", "reached": _yes(seconds[0] <= 1 / 5000)}, []
    large = [photo(images, place, "large picture") for place in range(12)]
    seconds = timed(large, repeats)
    row = _speed("1,600-pixel JPEG", len(large), seconds)
    yield row | {"to reach": "ratio 2", "reached": _yes(seconds[0] <= 2 * seconds[2])}, []


def timed(files: Sequence[bytes], repeats: int) -> list[float]:
    """Seconds a file: decoded and normalised, decoded, decoded whole; each the median pass."""
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
    readings: Sequence[Reading],
    least: float | None = None,
    *,
    named: bool = False,
    drawn: bool = True,
) -> Group:
    wrong = [each for each in readings if not each.right]
    share = 100 * (1 - len(wrong) / len(readings))
    row: Row = {
        "group": group,
        "pictures": len(readings),
        "figure": f"{share:.2f} %",
        "to reach": "" if least is None else f"{least:.2f} %",
        "reached": "" if least is None else _yes(share >= least),
        "misread": len(wrong),
        "of them refused": sum(each.image is None for each in wrong),
        "which": "; ".join(map(str, wrong)) if named else "",
    }
    return row, wrong if drawn else []


def _speed(group: str, files: int, seconds: Sequence[float]) -> Row:
    whole, decoding, plain = seconds
    return {
        "group": f"{group}, one core",
        "pictures": files,
        "figure": f"{1 / whole:,.0f} / s, ratio {whole / plain:.2f}",
        "which": f"{1e6 * whole:,.0f} us each, {1e6 * decoding:,.0f} us of them decoding; "
        f"decoding it whole {1e6 * plain:,.0f} us",
    }


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def trained(data: str, folder: str) -> Model:
    """The preset `fast`, trained on all of MNIST."""
    flags = ["--data", data, "--workers", "0", "--validation-split", "0", "--output", folder]
    subprocess.run(
        [sys.executable, "-m", "nanograd", "train", *flags], stdout=subprocess.DEVNULL, check=True
    )
    return load(f"{folder}/model")


def main() -> None:
    """Measure and report."""
    groups = ("development", "mnist", "photos", "speed")
    parser = arguments(__doc__)
    parser.add_argument("--model", help="model directory; trained anew if there is none")
    parser.add_argument(
        "--pictures", type=Path, required=True, help="folder of the development set"
    )
    parser.add_argument("--images", choices=("test", "train"), default="test")
    parser.add_argument("--photos", type=int, default=200, help="of each kind")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=groups, default=groups)
    parser.add_argument("--sheet", type=Path, help="PNG file for the contact sheet")
    parser.add_argument("--drawn", type=int, default=8, help="misread pictures of a group")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = load(options.model) if options.model else trained(options.data, folder)
    measured = list(measure(options, model))
    if options.sheet:
        chosen = chain.from_iterable(wrong[: options.drawn] for _, wrong in measured)
        contact_sheet(list(chosen)).save(options.sheet)
    report([row for row, _ in measured], options.json)


if __name__ == "__main__":
    main()
