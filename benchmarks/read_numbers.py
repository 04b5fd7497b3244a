"""Claim: most lines of digits are read right, on white, in photos and in the boxes of a form.

Lines are drawn from MNIST's test images (`simulators/strings.py`): digits apart, or at least one
pair that touches; in six boxes of a form; and as photos of each kind (`simulators/scenes.py`). The
own numbers are drawn without MNIST (`simulators/own_numbers.py`). A line is right if its whole text
is right and it is the only line found.

- picture, ms: the time to read a whole picture on one core;
- ms a digit: the time after its lines were found;
- tesseract: Debian's `tesseract --psm 7`, digits only, on the first `--tesseract` pictures, and on
  a tenth as many photos of each kind.

The rules and the nets were chosen on lines of training images (`--part train`), except that photos
of test images showed three faults: wires of bindings, rings at the border and hues were misjudged.
"""

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from statistics import mean
from time import process_time

import numpy as np
from common import HERE, Row, arguments, report
from numpy.random import Generator
from PIL import Image

import nanograd
from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.models.model import Model
from nanograd.numbers.locate import find_lines
from nanograd.numbers.recognise import read_lines, read_numbers
from nanograd.runtime.arrays import Bytes

sys.path.append(str(HERE.parent))
from simulators.own_numbers import draw_numbers
from simulators.photos import photograph
from simulators.scenes import KINDS
from simulators.strings import HEIGHT, Style, write, write_in_boxes

Draw = Callable[[Sequence[Bytes], Generator], Image.Image]
LENGTHS = (2, 3, 5, 10)


def on_white(touching: bool) -> Draw:
    """Return the function that draws digits on white paper."""

    def draw(digits: Sequence[Bytes], random: Generator) -> Image.Image:
        return Image.fromarray(255 - write(digits, Style(touching=touching), random))

    return draw


def photo(kind: str) -> Draw:
    """Return the function that photographs a line."""

    def draw(digits: Sequence[Bytes], random: Generator) -> Image.Image:
        ink = write(digits, Style(), random)
        return Image.open(BytesIO(photograph(ink, kind, int(random.integers(2**31)), HEIGHT)))

    return draw


def form(digits: Sequence[Bytes], random: Generator) -> Image.Image:
    """Draw digits in the boxes of a form."""
    return Image.fromarray(write_in_boxes(digits, random))


Pictures = Iterator[tuple[str, Image.Image]]


def conditions(options: Namespace) -> Iterator[tuple[str, int | str, Pictures]]:
    """Yield a name, the number of digits in a line, and the texts and pictures."""
    data = getattr(sources.load([options.data]), options.part)
    images = data.images.reshape(-1, 28, 28)
    if options.part == "train":  # the line net did not see the last images
        images = images[-10_000:]
    labels = data.labels[-len(images) :]
    named = [
        ("touching" if touching else "apart", length, on_white(touching))
        for touching in (False, True)
        for length in LENGTHS
    ]
    named.append(("boxes of a form", 6, form))
    named += [(f"photo, {kind}", 5, photo(kind)) for kind in KINDS]

    def pictures(number: int, length: int, draw: Draw, count: int) -> Pictures:
        random = np.random.default_rng([number, length])
        for _ in range(count):
            chosen = random.integers(0, len(images), length)
            yield "".join(map(str, labels[chosen])), draw(list(images[chosen]), random)

    for number, (name, length, draw) in enumerate(named):
        count = options.photos if name.startswith("photo") else options.lines
        yield name, length, pictures(number, length, draw, count)
    yield "own numbers", "2 to 10", draw_numbers(options.own, 1)


def measure(options: Namespace, model: Model) -> Iterator[Row]:
    """Measure each condition, and the mean and the worst of the photos."""
    photos = list[Row]()
    for name, length, pictures in conditions(options):
        if not name.startswith(options.only):
            continue
        count = right = other = digits = 0
        compared = options.tesseract // (10 if name.startswith("photo") else 1)
        seconds = [0.0, 0.0]
        for text, picture in pictures:
            began = process_time()
            found = read(picture, model)
            seconds[0] += process_time() - began
            seconds[1] += time_of_lines(picture, model)
            count, right, digits = count + 1, right + (found == text), digits + len(text)
            if count <= compared:
                other += read_with_tesseract(picture) == text
            if options.wrong and found != text:
                options.wrong.mkdir(exist_ok=True)
                file = f"{name}-{length}-{count}-{text}-{found}.png".replace("\n", "+")
                picture.convert("RGB").save(options.wrong / file[:200])
        row: Row = {
            "lines": name,
            "digits": length,
            "pictures": count,
            "right": percent(right, count),
        }
        if options.tesseract:
            row["tesseract"] = percent(other, min(count, compared))
        row["picture, ms"] = f"{1000 * seconds[0] / count:.0f}"
        row["ms a digit"] = f"{1000 * seconds[1] / digits:.1f}"
        photos += [row] if name.startswith("photo") else []
        yield row
    if photos:
        shares = [float(row["right"].split()[0]) for row in photos]
        columns = [name for name in ("right", "tesseract") if name in photos[0]]
        means: Row = {
            name: f"{mean(float(each[name].split()[0]) for each in photos):.1f} %"
            for name in columns
        }
        total = sum(row["pictures"] for row in photos)
        yield {
            "lines": f"all {len(photos)} kinds of photos",
            "digits": 5,
            "pictures": total,
            **means,
        }
        yield {**photos[int(np.argmin(shares))], "lines": "the worst kind of photo"}


def percent(part: int, count: int) -> str:
    """Format a share."""
    return f"{100 * part / count:.1f} %"


def read(picture: Image.Image, model: Model) -> str:
    """Return the text of all lines."""
    try:
        return "\n".join(number.text for number in read_numbers(picture, model))
    except UnreadableError:
        return ""


def time_of_lines(picture: Image.Image, model: Model) -> float:
    """Return the seconds from found lines to their texts."""
    try:
        lines = find_lines(picture).lines
    except UnreadableError:
        return 0.0
    began = process_time()
    read_lines(lines, model)
    return process_time() - began


def read_with_tesseract(picture: Image.Image) -> str:
    """Return the digits that tesseract reads in a line."""
    stream = BytesIO()
    picture.convert("L").save(stream, "PNG")
    command = ["tesseract", "-", "-", "--psm", "7", "-c", "tessedit_char_whitelist=0123456789"]
    # It crashes on some very small pictures.
    done = subprocess.run(command, input=stream.getvalue(), capture_output=True, check=False)
    return done.stdout.decode().strip().replace(" ", "")


def main() -> None:
    """Measure and report."""
    parser = arguments(__doc__)
    parser.add_argument("--model")
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--photos", type=int, default=25)
    parser.add_argument("--own", type=int, default=72)
    parser.add_argument("--only", default="", help="conditions that begin so")
    parser.add_argument("--part", choices=("test", "train"), default="test")
    parser.add_argument("--tesseract", type=int, default=0, help="pictures of each kind of line")
    parser.add_argument("--wrong", type=Path, help="folder for pictures that are read wrong")
    options = parser.parse_args()
    if options.tesseract and not shutil.which("tesseract"):
        parser.error("tesseract is not installed: apt-get install tesseract-ocr")
    report(list(measure(options, nanograd.load_model(options.model))), options.json)


if __name__ == "__main__":
    main()
