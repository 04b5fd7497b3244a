"""Make the pictures of README.md: screenshots of reports, drawing pad and terminal in Chromium.

    python -m scripts.pictures RUN PREDICTION

RUN is a finished training run, PREDICTION the output of a prediction; the pictures go to
docs/pictures/. The terminal shows a training run of its own, on the built-in sample.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from itertools import chain
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import Browser, Page
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from nanograd import commands
from nanograd.config.train_config import TrainConfig
from nanograd.console.terminal import LiveView
from nanograd.runtime.events import Event, Message, TrainingProgress, info
from scripts import chromium

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"

_DESK, _PHONE = {"width": 1100, "height": 820}, {"width": 390, "height": 820}
# Enough for text, plots and handwriting, with a third of the bytes.
_NUM_COLOURS = 256
# A seven with its bar, in shares of the pad's side.
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
            capture_reports(browser, run, prediction), capture_terminal(browser)
        ):
            (FOLDER / f"{name}.png").write_bytes(picture)
            click.echo(f"{name}.png {len(picture):,} bytes", err=True)


def capture_reports(browser: Browser, run: Path, prediction: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and PNG of each picture: a run in light, dark, on a phone, a seven; a prediction.

    Args:
        browser: takes the screenshots.
        run: report.html of a training run.
        prediction: report.html of a prediction.
    """
    for scheme in ("light", "dark"):
        with _page(browser, run.as_uri(), scheme, _DESK) as page:
            yield f"report-{scheme}", _reduce(page.screenshot)
    with _page(browser, run.as_uri(), "light", _PHONE) as page:
        page.locator("#digits").scroll_into_view_if_needed()
        page.evaluate("document.getElementById('digits').scrollIntoView()")
        yield "report-phone", _reduce(page.screenshot)
    with _page(browser, run.as_uri(), "light", _DESK) as page:
        draw(page, _SEVEN)
        yield "draw", _reduce(page.locator("#draw").screenshot)
    with _page(browser, prediction.as_uri(), "light", _DESK) as page:
        page.evaluate("document.getElementById('mistakes').scrollIntoView()")
        yield "prediction", _reduce(page.screenshot)


def draw(page: Page, strokes: list[list[tuple[float, float]]]) -> str:
    """Draw strokes on the pad of a report with the mouse; return the status line."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    if box is None:
        raise ValueError("the page has no pad to draw on")
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for x, y in points[1:]:
            page.mouse.move(x, y, steps=6)
        page.mouse.up()
    page.evaluate("new Promise(requestAnimationFrame)")
    return page.locator("#status").inner_text()


def capture_terminal(browser: Browser) -> Iterator[tuple[str, bytes]]:
    """Yield the live view of a training run, two thirds through."""
    console = Console(record=True, width=88, file=StringIO(), force_terminal=True)
    console.print(
        Text("$ nanograd train --data sample --epochs 40 --workers 0 --output runs/1", style="bold")
    )
    view, complete = LiveView(console), False

    def draw_event(event: Event) -> None:
        nonlocal complete
        if complete:
            return
        if isinstance(event, TrainingProgress):
            # Drawn as it comes: the bar measures the time left by its own clock.
            drawing = view.view(event)
            if complete := 3 * event.round >= 2 * event.rounds:
                console.print(drawing)
        else:
            view(info(str(event).replace(place, "runs/1")) if isinstance(event, Message) else event)

    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/run"
        config = TrainConfig(data="sample", workers=0, epochs=40, output=place)
        commands.train(config, draw_event)
    page = browser.new_page(viewport={"width": 1000, "height": 400}, device_scale_factor=1.25)
    page.set_content(console.export_svg(title="nanograd train", theme=MONOKAI))
    picture = _reduce(page.locator("svg").first.screenshot)
    page.close()
    yield "terminal", picture


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
