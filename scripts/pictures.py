"""Make the pictures of README.md and docs/: reports, drawing pad and terminal in Chromium.

    python -m scripts.pictures RUN PREDICTION

RUN is a finished training run, and PREDICTION is the output of a prediction. The pictures are
written to docs/pictures/. The terminal shows a new training run on the built-in sample with two
workers, from its first progress on and at its real speed; pauses are cut to two seconds.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from itertools import chain, pairwise
from math import ceil
from pathlib import Path
from time import perf_counter

import click
from PIL import Image
from playwright.sync_api import Browser, Page
from rich.console import Console, RenderableType
from rich.terminal_theme import MONOKAI
from rich.text import Text

from nanograd import commands
from nanograd.console.log_lines import sentence
from nanograd.console.terminal import LiveView
from nanograd.runtime.events import EpochFinished, Event, TrainingProgress
from scripts import chromium

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"

_DESK, _PHONE = {"width": 1100, "height": 820}, {"width": 390, "height": 820}
# These colours are enough for text, plots and handwriting, and take a third of the bytes.
_NUM_COLOURS, _NUM_COLOURS_MOVING = 256, 32
_MAX_FRAMES, _MAX_PAUSE_S, _LAST_FRAME_S = 60, 2.0, 4.0
_COLUMNS, _LINES = 84, 20
# The strokes of a seven with a bar, in shares of the pad's side.
_SEVEN = [
    [(0.27, 0.22), (0.42, 0.2), (0.58, 0.21), (0.73, 0.19), (0.66, 0.36), (0.57, 0.55),
     (0.5, 0.83)],
    [(0.42, 0.53), (0.55, 0.51), (0.68, 0.52)],
]  # fmt: skip


def main() -> None:
    """Make all pictures."""
    run, prediction = (Path(word).resolve() / "report.html" for word in sys.argv[1:])
    path = chromium.find_program()
    if path is None:
        sys.exit("needs Chromium; `make test-browser` installs it")
    FOLDER.mkdir(exist_ok=True)
    with chromium.launch(path) as browser:
        for name, picture in chain(
            capture_reports(browser, run, prediction),
            [("draw.gif", capture_drawing(browser, run)), ("train.gif", capture_terminal(browser))],
        ):
            (FOLDER / name).write_bytes(picture)
            click.echo(f"{name} {len(picture):,} bytes", err=True)


def capture_reports(browser: Browser, run: Path, prediction: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and PNG of each picture: a run in light, dark and on a phone; a prediction.

    Args:
        browser: takes the screenshots.
        run: report.html of a training run.
        prediction: report.html of a prediction.
    """
    for scheme in ("light", "dark"):
        with _page(browser, run.as_uri(), scheme, _DESK) as page:
            yield f"report-{scheme}.png", _reduce(page.screenshot)
    with _page(browser, run.as_uri(), "light", _PHONE) as page:
        page.locator("#digits").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('digits').scrollIntoView()")
        yield "report-phone.png", _reduce(page.screenshot)
    with _page(browser, prediction.as_uri(), "light", _DESK) as page:
        page.evaluate("document.getElementById('review').scrollIntoView()")
        yield "prediction.png", _reduce(page.screenshot)


def capture_drawing(browser: Browser, run: Path) -> bytes:
    """Return a moving picture of a seven that is drawn and classified in a report."""
    frames: list[tuple[float, bytes]] = []
    with _page(browser, run.as_uri(), "light", {"width": 760, "height": 820}) as page:
        section = page.locator("#draw")

        def take() -> None:
            frames.append((0.12 * len(frames), section.screenshot()))

        draw(page, _SEVEN, take)
    return _moving(frames)


def draw(page: Page, strokes: list[list[tuple[float, float]]], moved: Callable[[], None]) -> str:
    """Draw strokes on the pad of a report with the mouse; return the status line."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    if box is None:
        raise ValueError("the page has no pad to draw on")
    moved()
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for before, after in pairwise(points):
            for share in (0.25, 0.5, 0.75, 1):
                page.mouse.move(*(a + share * (b - a) for a, b in zip(before, after, strict=True)))
                page.evaluate("new Promise(requestAnimationFrame)")
            moved()
        page.mouse.up()
        page.evaluate("new Promise(requestAnimationFrame)")
        moved()
    return page.locator("#status").inner_text()


def capture_terminal(browser: Browser) -> bytes:
    """Return a moving picture of the live view of a training run."""
    command = "nanograd train --data sample --epochs 30 --workers 2 --output runs/1"
    lines: list[RenderableType] = [Text(f"$ {command}", style="bold")]
    view = LiveView(Console(width=_COLUMNS, file=StringIO(), force_terminal=True))
    frames: list[tuple[float, str]] = []
    drawing: RenderableType = ""

    def add(*drawing: RenderableType) -> None:
        console = Console(record=True, width=_COLUMNS, file=StringIO(), force_terminal=True)
        console.print(*lines, *drawing, sep="\n")
        blank = _LINES - len(console.export_text(clear=False).splitlines())
        console.print("\n" * (blank - 1))
        frames.append((perf_counter(), console.export_svg(title="nanograd", theme=MONOKAI)))

    def draw_event(event: Event) -> None:
        nonlocal drawing
        if isinstance(event, TrainingProgress):
            add(drawing := view.view(event))
        elif isinstance(event, EpochFinished):
            view(event)
        elif (text := sentence(event)) is not None:
            lines.append(Text(text.replace(place, "runs/1")))
            if drawing:  # the first frame has something to see
                add()

    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/run"
        result = commands.train(
            data="sample", workers=2, epochs=30, output=place, listener=draw_event
        )
        add(drawing, Text(str(result).replace(place, "runs/1")))
    page = browser.new_page(viewport={"width": 860, "height": 400})
    pictures = []
    for time_s, svg in frames:
        page.set_content(svg)
        pictures.append((time_s, page.locator("svg").first.screenshot()))
    page.close()
    return _moving(pictures)


def _moving(frames: list[tuple[float, bytes]]) -> bytes:
    """Return frames and their times in seconds as a GIF that repeats."""
    frames = frames[:: ceil(len(frames) / _MAX_FRAMES)][:-1] + frames[-1:]
    times_s = [min(after - before, _MAX_PAUSE_S) for (before, _), (after, _) in pairwise(frames)]
    images = [Image.open(BytesIO(data)).convert("RGB") for _, data in frames]
    # Choose colours from several frames, because a full bar has another colour.
    sheet = Image.new("RGB", (images[0].width, 3 * images[0].height))
    for place, image in enumerate((images[0], images[len(images) // 2], images[-1])):
        sheet.paste(image, (0, place * image.height))
    palette = sheet.quantize(_NUM_COLOURS_MOVING, Image.Quantize.MAXCOVERAGE)
    first, *rest = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in images]
    stream = BytesIO()
    durations = [round(1000 * each) for each in (*times_s, _LAST_FRAME_S)]
    first.save(stream, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)
    return stream.getvalue()


@contextmanager
def _page(browser: Browser, address: str, scheme: str, size: dict[str, int]) -> Iterator[Page]:
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    yield page
    context.close()


def _reduce(take: Callable[[], bytes]) -> bytes:
    """Take a screenshot and reduce its colours."""
    stream = BytesIO()
    with Image.open(BytesIO(take())) as picture:
        few = picture.convert("RGB").quantize(_NUM_COLOURS, dither=Image.Dither.NONE)
    few.save(stream, "PNG", optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    main()
