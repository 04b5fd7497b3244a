"""Claim: scores are probabilities, and nearly all mistakes are among the most doubtful rows.

A net (`--models`, or the preset `accurate` trained on all of MNIST) classifies MNIST's test images,
photos simulated from them, the development set (`--pictures`), and images without a digit: frames,
bars, noise, two digits, letters of fonts, and photographed letters drawn with a pen.

- calibration error: the expected calibration error, in 15 bins of the best score;
- unfamiliarity: the area under the ROC curve that separates test digits from images without a digit
  (1 is perfect), and the share of images above the threshold, of images without a digit and of
  correctly classified pictures;
- accuracy of the least doubtful 98 % of the rows, and the share of rows to review for 99.9 %.

Each kind of letters has two rows: one counts all letters, the other leaves out letters in the shape
of a digit (O, I, l, S, Z and others). Refused pictures are not counted. Test images are not used to
choose settings.
"""

import string
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
from common import Row, arguments, report
from handwriting import train
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from samples import classify, development, optdigits, simulated

from nanograd.digits.augment import Distortion, distort
from nanograd.digits.dataset import Dataset, Mnist
from nanograd.digits.form import centre, shrink
from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.jobs.receipts import doubt_of
from nanograd.models.model import Model, load
from nanograd.models.reference import UNFAMILIAR
from nanograd.nn import metrics
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise
from simulators.photos import photograph
from simulators.scenes import KINDS

Bytes = NDArray[np.uint8]

_FONTS = (
    *("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralItalic", "cmr10", "cmss10", "cmti10", "cmtt10", "cmmi10"),
)
_DRAWN_KINDS = ("plain", "thin pen", "marker", "pencil", "perspective", "coloured ink", "grain")
# Letters that have the shape of a digit in some font or handwriting.
_LIKE_DIGITS = frozenset("OoDQIlJSsZzBbGgq")
_BENT = Distortion(elastic=1.2, rotation=10, scaling=0.15, shear=0.15, shift=0.5, stroke=0.3)


def measure(options: Namespace, models: Mapping[str, Model]) -> Iterator[Row]:
    """Measure each group of pictures with each model."""
    data = sources.load([options.data])
    digits = dict(labelled(options, data))
    others = dict(no_digits(data.test, options.number))
    for name, model in models.items():
        familiar = model.unfamiliarity(data.test.images)
        for group, labelled_images in digits.items():
            row = {"model": name, "group": group, "pictures": len(labelled_images)}
            yield row | judge(model, labelled_images)
        for group, images in others.items():
            unfamiliarity = model.unfamiliarity(images)
            yield {
                "model": name,
                "group": group,
                "pictures": len(images),
                "area under the curve": f"{area(familiar, unfamiliarity):.3f}",
                "unfamiliar": _percent((unfamiliarity > UNFAMILIAR).mean()),
            }


def judge(model: Model, digits: Dataset) -> Row:
    """Return the calibration error, the share of false alarms, and the accuracy by doubt."""
    scores, unfamiliarity = model.assess(digits.images)
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == digits.labels
    columns = {"confidence": pa.array(confidence), "unfamiliarity": pa.array(unfamiliarity)}
    order = np.argsort(doubt_of(pa.table(columns)), kind="stable")
    errors = np.cumsum(~right[order])
    enough = np.flatnonzero(errors <= 0.001 * np.arange(1, len(order) + 1))
    return {
        "accuracy": _percent(right.mean()),
        "calibration error": _percent(metrics.calibration(confidence, right, 15).error),
        "unfamiliar": _percent((unfamiliarity[right] > UNFAMILIAR).mean()),
        "accuracy of 98 %": _percent(right[order[: int(0.98 * len(order))]].mean()),
        "to review for 99.9 %": _percent(1 - (enough[-1] + 1) / len(order) if len(enough) else 1.0),
    }


def area(lower: NDArray[np.floating], higher: NDArray[np.floating]) -> float:
    """Return the share of pairs in which the value of `higher` is higher; a tie counts half."""
    ordered = np.sort(lower)
    ranks = [np.searchsorted(ordered, higher, side) for side in ("left", "right")]
    return float(np.mean(ranks) / len(lower))


def labelled(options: Namespace, data: Mnist) -> Iterator[tuple[str, Dataset]]:
    """Yield groups of digits as 28 x 28 pixels."""
    chosen = data.test if options.images == "test" else data.train
    if options.images == "test":
        yield "MNIST test", data.test
    photos = [each for kind in KINDS for each in simulated(chosen, kind, options.photos)]
    groups = {"simulated photos": photos}
    if options.pictures:
        series = development(options.pictures).values()
        groups["development set"] = [each for samples in series for each in samples]
        groups["optdigits"] = optdigits(options.pictures)
    for name, samples in groups.items():
        read = [each for each in classify(samples, {}) if each.image is not None]
        labels = np.array([each.sample.label for each in read], np.uint8)
        yield name, Dataset(np.array([each.image for each in read]).reshape(-1, 784), labels)


def no_digits(test: Dataset, number: int) -> Iterator[tuple[str, Bytes]]:
    """Yield groups of 28 x 28 images without a digit."""
    draw = np.random.default_rng(0)
    for name, make in (("frames", frame), ("bars", bars), ("noise", noise)):
        yield name, np.array([make(draw) for _ in range(number)]).reshape(-1, 784)
    chosen = test.images[draw.integers(0, len(test), (number, 2))].reshape(-1, 2, 28, 28)
    pairs = np.array([side_by_side(left, right, draw) for left, right in chosen])
    yield "two digits", pairs.reshape(-1, 784)
    for name, find in (("letters of fonts", printed), ("drawn letters", drawn)):
        found = list(find(draw))
        unlike = [image for letter, image in found if letter not in _LIKE_DIGITS]
        yield name, np.array([image for _, image in found]).reshape(-1, 784)
        yield f"{name}, without those like digits", np.array(unlike).reshape(-1, 784)


def _sketch(paint: Callable[[ImageDraw.ImageDraw], object]) -> Bytes:
    picture = Image.new("F", (224, 224))
    paint(ImageDraw.Draw(picture))
    return centre(shrink(np.asarray(picture)))


def frame(draw: Generator) -> Bytes:
    """Draw a rectangle with random sides and pen; one in five is around all 28 x 28 pixels."""
    if draw.random() < 0.2:
        image = np.zeros((28, 28), np.uint8)
        inset, pen = int(draw.integers(0, 4)), int(draw.integers(1, 4))
        image[inset : 28 - inset, inset : 28 - inset] = 255
        image[inset + pen : 28 - inset - pen, inset + pen : 28 - inset - pen] = 0
        return image
    width, height = draw.uniform(60, 200, 2) / 2
    box, pen = (112 - width, 112 - height, 112 + width, 112 + height), int(draw.uniform(6, 30))
    return _sketch(lambda sketch: sketch.rectangle(box, outline=1, width=pen))


def bars(draw: Generator) -> Bytes:
    """Draw one to three horizontal bars, two or three vertical bars, or a cross."""
    kind, number, pen = draw.integers(3), int(draw.integers(1, 4)), int(draw.uniform(12, 50))

    def paint(sketch: ImageDraw.ImageDraw) -> None:
        if kind == 0:
            for at in range(number):
                sketch.rectangle((20, 40 + 70 * at, 204, 40 + 70 * at + pen), fill=1)
        elif kind == 1:
            for at in range(max(2, number)):
                sketch.rectangle((30 + 70 * at, 20, 30 + 70 * at + pen, 204), fill=1)
        else:
            sketch.rectangle((112 - pen / 2, 20, 112 + pen / 2, 204), fill=1)
            sketch.rectangle((20, 112 - pen / 2, 204, 112 + pen / 2), fill=1)

    return _sketch(paint)


def noise(draw: Generator) -> Bytes:
    """Draw noise on a blank sheet: uniform, faint, dots, or smooth."""
    kind = draw.integers(4)
    if kind == 0:
        return draw.integers(0, 256, (28, 28), np.uint8)
    if kind == 1:
        return np.abs(draw.normal(0, draw.uniform(10, 80), (28, 28))).clip(0, 255).astype(np.uint8)
    if kind == 2:
        return np.where(draw.random((28, 28)) < draw.uniform(0.02, 0.5), 255, 0).astype(np.uint8)
    coarse = Image.fromarray(draw.normal(size=(7, 7)).astype(np.float32))
    smooth = np.asarray(coarse.resize((28, 28), Image.Resampling.BICUBIC))
    grey: Bytes = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    return grey


def side_by_side(left: Bytes, right: Bytes, draw: Generator) -> Bytes:
    """Put two digits beside each other with a gap, touching or overlapping."""
    images = [
        image[np.ix_(image.any(1), image.any(0))] / np.float32(255) for image in (left, right)
    ]
    height = max(len(image) for image in images)
    gap = int(draw.integers(-2, 5))
    both = np.zeros((height, sum(image.shape[1] for image in images) + gap), np.float32)
    for image, columns in zip(
        images, (slice(None, images[0].shape[1]), slice(-images[1].shape[1], None)), strict=True
    ):
        top = (height - len(image)) // 2
        part = both[top : top + len(image), columns]
        np.maximum(part, image, out=part)
    enlarged = Image.fromarray(both).resize(
        (4 * both.shape[1], 4 * height), Image.Resampling.BICUBIC
    )
    return centre(shrink(np.asarray(enlarged).clip(0, 1)))


def _glyph(letter: str, font: str) -> Image.Image:
    picture = Image.new("L", (320, 320), 255)
    path = Path(mpl.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    ImageDraw.Draw(picture).text(
        (160, 160), letter, font=ImageFont.truetype(str(path), 160), fill=0, anchor="mm"
    )
    return picture


def printed(_: Generator) -> Iterator[tuple[str, Bytes]]:
    """Yield the letters of fonts that the normaliser does not refuse."""
    for font in _FONTS:
        for letter in string.ascii_letters:
            try:
                yield letter, normalise(_glyph(letter, font))
            except UnreadableError:
                continue


def drawn(draw: Generator) -> Iterator[tuple[str, Bytes]]:
    """Yield photographed letters, which are bent and drawn along their middle line with a pen."""
    for number, font in enumerate(_FONTS):
        for letter in string.ascii_letters:
            ink = 1 - np.asarray(_glyph(letter, font), np.float32) / 255
            seed = 1000 * number + ord(letter)
            bent = distort(centre(shrink(ink)).reshape(1, 784), _BENT, Philox(seed))
            kind = _DRAWN_KINDS[draw.integers(len(_DRAWN_KINDS))]
            photo = photograph(np.rint(bent).astype(np.uint8).reshape(28, 28), kind, seed)
            try:
                yield letter, normalise(decode(photo))
            except UnreadableError:
                continue


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="*", default=[], help="model directories")
    parser.add_argument("--pictures", type=Path, help="folder of the development set")
    parser.add_argument("--images", choices=("test", "train"), default="test")
    parser.add_argument("--photos", type=int, default=50, help="photos per kind")
    parser.add_argument("--number", type=int, default=1000, help="images of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {Path(each).parent.name: load(each) for each in options.models}
        models = models or {"accurate": train("accurate", options.data, f"{folder}/accurate")}
    report(list(measure(options, models)), options.json)


if __name__ == "__main__":
    main()
