import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nanograd import commands
from nanograd.data.mnist import Mnist
from nanograd.errors import DataError
from nanograd.models import model as model_io
from nanograd.nn import metrics
from nanograd.nn.mlp import Architecture, Params
from nanograd.report import accuracy, charts, training_report
from nanograd.report.charts import Axis, Bars, Line, Mark
from nanograd.runtime.events import Event, Level
from tests.helpers.runs import train

MOST_BYTES = 3_000_000


class Page(HTMLParser):
    """What a browser would look at: ids, links, sources, tags left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {"id": self.ids, "href": self.links, "src": self.sources}
        for name, value in attrs:
            found.get(name, []).append(value or "")
        assert tag != "img" or dict(attrs)["alt"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def run(few_digits: Mnist, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("<b>&run")
    train(few_digits, place)
    return place


@pytest.fixture(scope="module")
def text(run: Path, few_digits: Mnist) -> str:
    return Path(training_report.write(str(run), few_digits.test)).read_text()


def test_report_is_one_small_file_that_asks_nobody(text: str) -> None:
    page = Page(text)

    assert len(text.encode()) < MOST_BYTES
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert all(source.startswith("data:") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", text)


def test_links_of_the_report_lead_to_its_sections(text: str) -> None:
    page = Page(text)

    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_report_says_what_the_model_does(text: str, run: Path, few_digits: Mnist) -> None:
    model = model_io.load(str(run / "model"))
    predictions = model.scores(few_digits.test.images).argmax(axis=1)
    words = " ".join(Page(text).words)

    accuracy = metrics.accuracy(predictions, few_digits.test.labels)
    assert f"{100 * accuracy:.2f} % of 193 test images" in words
    cells = re.findall(r'<td class="(?:hit|miss|none)"[^>]*>(\d*)·?</td>', text)
    matrix = metrics.confusion_matrix(predictions, few_digits.test.labels, 10)
    assert [int(cell or 0) for cell in cells] == matrix.ravel().tolist()
    assert model.params_sha256() in words


def test_what_comes_from_outside_is_escaped(text: str) -> None:
    assert "<b>&run" not in text
    assert "&lt;b&gt;&amp;run" in text


def test_report_shows_what_was_lost(run: Path, few_digits: Mnist) -> None:
    story = training_report.read(str(run))
    lost = {"time": "2026-01-01T00:00:00Z", "event": "lost", "round": 7, "sentence": "w 1 <lost>"}
    other = {"time": "2026-01-01T00:00:01Z", "event": "mixed", "rank": 0, "sentence": "w 0 is old"}

    few = few_digits.test.take(slice(0, 7))
    told = training_report.page(
        training_report.Story(**{**vars(story), "events": [lost, other]}),
        few,
        training_report.ask(story.model, few),
    )

    assert 'class="mark lost"' in told
    assert "w 1 &lt;lost&gt;" in told
    assert "w 0 is old" in told


def test_report_of_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a finished training run"):
        training_report.read(str(tmp_path))


def test_trouble_with_a_report_is_a_warning(tmp_path: Path, few_digits: Mnist) -> None:
    events: list[Event] = []

    place = str(tmp_path / "gone")
    written = commands.write_report(
        place, partial(training_report.write, place, few_digits.test), events.append
    )

    assert written is None
    [warning] = events
    assert warning.level is Level.WARNING
    assert str(warning).startswith("no report")


def test_command_writes_the_report_anew(run: Path, few_digits: Mnist) -> None:
    (run / training_report.NAME).unlink(missing_ok=True)

    figures = commands.report(str(run), "sample", [].append)

    assert Path(figures["report"]).exists()


def test_net_that_reads_everything_has_no_mistakes_to_show() -> None:
    labels = np.array([3, 1])

    shown = accuracy.mistakes(np.zeros((2, 784), np.uint8), labels, labels, np.ones(2))

    assert "Every image was read right" in shown


@pytest.mark.parametrize("hidden", [1, 7, 193])
def test_any_number_of_hidden_units_is_drawn(hidden: int) -> None:
    layers = Architecture(inputs=784, hidden=hidden, classes=10, activation="relu", loss="mse")
    net = Params(np.zeros(layers.num_parameters, np.float32), layers)

    assert f"weights of {min(hidden, 60)} hidden units" in accuracy.units(net)


def test_all_that_is_drawn_lies_inside_its_chart() -> None:
    x, y = Axis("x", 0, 10, str), Axis("y", 0, 1, str)

    svg = charts.chart(
        "t",
        x,
        y,
        [Line("a", [(0, 0), (10, 1)]), Bars("b", [(0, 1), (9, 10)], [1, 0.5])],
        [Mark(10, "end", "lost")],
    )

    xs = [float(value) for value in re.findall(r'\bc?x="([\d.-]+)"', svg)]
    ys = [float(value) for value in re.findall(r'\bc?y="([\d.-]+)"', svg)]
    assert 0 <= min(xs) <= max(xs) <= 480
    assert 0 <= min(ys) <= max(ys) <= 280


def test_one_epoch_alone_is_drawn() -> None:
    assert "<svg" in accuracy.curve("t", "loss", [(1, 0.0)], ".3g")
