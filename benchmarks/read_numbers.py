"""Claim: most lines of digits are read right, on white, in photos and in the boxes of a form.

    PYTHONPATH=. python benchmarks/read_numbers.py --data MNIST [--lines 200] [--tesseract]

A line is right if its whole text is right and it is the only line found.
"""

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from time import process_time

import numpy as np
from numpy.random import Generator
from PIL import Image

import nanograd
from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.models.model import Model
from nanograd.numbers.locate import find_lines
from nanograd.numbers.recognise import divide, read_line
from nanograd.runtime.arrays import Bytes
from simulators.photos import photograph
from simulators.scenes import KINDS
from simulators.strings import HEIGHT, Style, write, write_in_boxes

Draw = Callable[[Bytes, Generator], Image.Image]
LENGTHS = (2, 3, 5, 10)


def on_white(touching: bool) -> Draw:
    """Return the function that draws digits on white paper."""

    def draw(digits: Bytes, random: Generator) -> Image.Image:
        return Image.fromarray(255 - write(digits, Style(touching=touching), random))

    return draw


def photo(kind: str) -> Draw:
    """Return the function that photographs a line."""

    def draw(digits: Bytes, random: Generator) -> Image.Image:
        ink = write(digits, Style(), random)
        return Image.open(BytesIO(photograph(ink, kind, int(random.integers(2**31)), HEIGHT)))

    return draw


def form(digits: Bytes, random: Generator) -> Image.Image:
    """Draw digits in the boxes of a form."""
    return Image.fromarray(write_in_boxes(digits, random))


def conditions() -> Iterator[tuple[str, int, Draw]]:
    """Yield the name, the length of the lines and how they are drawn."""
    for touching in (False, True):
        for length in LENGTHS:
            yield "touching" if touching else "apart", length, on_white(touching)
    yield "boxes of a form", 6, form
    for kind in KINDS:
        yield f"photo, {kind}", 5, photo(kind)


def read(picture: Image.Image, model: Model) -> tuple[str, float]:
    """Return the text of all lines, and the seconds from found lines to text."""
    try:
        lines = find_lines(picture)
    except UnreadableError:
        return "", 0.0
    began = process_time()
    texts = []
    for line in lines:
        pieces = divide(line)
        if len(pieces.first) and (number := read_line(line, pieces, model.assess(pieces.images))):
            texts.append(number.text)
    return "\n".join(texts), process_time() - began


def read_with_tesseract(picture: Image.Image) -> str:
    """Return the digits that tesseract reads in a line."""
    stream = BytesIO()
    picture.convert("L").save(stream, "PNG")
    command = ["tesseract", "-", "-", "--psm", "7", "-c", "tessedit_char_whitelist=0123456789"]
    done = subprocess.run(command, input=stream.getvalue(), capture_output=True, check=True)
    return done.stdout.decode().strip().replace(" ", "")


def main() -> None:
    """Print a JSON line for each condition."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="auto")
    parser.add_argument("--model")
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--photos", type=int, default=25)
    parser.add_argument("--only", default="", help="conditions that begin so")
    parser.add_argument("--part", choices=("test", "train"), default="test")
    parser.add_argument("--tesseract", action="store_true")
    parser.add_argument("--wrong", type=Path, help="folder for pictures that are read wrong")
    given = parser.parse_args()
    if given.tesseract and not shutil.which("tesseract"):
        parser.error("tesseract is not installed: apt-get install tesseract-ocr")
    data = getattr(sources.load([given.data]), given.part)
    model = nanograd.load_model(given.model)
    digits = data.images.reshape(-1, 28, 28)
    for number, (name, length, draw) in enumerate(conditions()):
        if not name.startswith(given.only):
            continue
        random = np.random.default_rng([number, length])
        count = given.photos if name.startswith("photo") else given.lines
        right = other = 0
        seconds = 0.0
        for line in range(count):
            chosen = random.integers(0, len(data), length)
            text = "".join(map(str, data.labels[chosen]))
            picture = draw(digits[chosen], random)
            found, spent = read(picture, model)
            right, seconds = right + (found == text), seconds + spent
            if given.tesseract:
                other += read_with_tesseract(picture) == text
            if given.wrong and found != text:
                given.wrong.mkdir(exist_ok=True)
                picture.convert("RGB").save(
                    given.wrong / f"{name}-{length}-{line}-{text}-{found}.png"
                )
        row = {"lines": name, "digits": length, "count": count, "right": right / count}
        row["ms_a_digit"] = round(1000 * seconds / count / length, 2)
        if given.tesseract:
            row["tesseract"] = other / count
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
