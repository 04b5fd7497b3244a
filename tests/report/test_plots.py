"""Charts: shapes inside their page, and PNG files."""

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nanograd import commands
from nanograd.jobs.receipts import Counts
from nanograd.nn import metrics
from nanograd.report import accuracy, charts, html, prediction_report, training_report
from nanograd.report.charts import Axis, Series, confusion_chart, draw_png, plot


def written(folder: Path) -> dict[str, tuple[int, int]]:
    """Return name and size of each PNG file, none of which is blank."""
    sizes = {}
    for file in sorted((folder / html.PLOTS).iterdir()):
        with Image.open(file) as picture:
            assert picture.format == "PNG"
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10
            sizes[file.stem] = picture.size
    return sizes


def test_plots_of_a_prediction_are_png_files(predict):
    names = ["calibration", "confidence", "confusion", "digits", "review"]
    for labelled, wanted in ((193, names), (0, ["confidence", "digits"])):
        commands.report(out := predict(labelled), as_png=True)

        assert list(written(out)) == wanted


def test_flag_adds_plots_to_a_finished_run(nanograd, tmp_path):
    words = ["train", "--data", "sample", "--workers", "0", "--epochs", "2", "--ensemble", "2"]

    for flags in ([], ["--plots"]):
        assert nanograd(*words, "--output", "run", *flags).code == 0
        assert (tmp_path / "run" / html.PLOTS).exists() == bool(flags)

    sizes = written(tmp_path / "run")
    assert sorted(sizes) == ["calibration", "confidence", "confusion", "learning", "speed"]
    assert sizes["learning"] == (3 * sizes["speed"][0], sizes["speed"][1])


SERIES = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), min_size=1, max_size=7).flatmap(
    lambda points: st.builds(
        Series,
        st.text(),
        st.just(points),
        st.sampled_from(["main", "second"]),
        st.sampled_from([0, 0.3]),
        st.sampled_from([[], [str(each) for each in points]]),
        st.just(()),
    )
)


@given(st.lists(SERIES, min_size=1, max_size=3), st.lists(st.floats(0, 10), max_size=3))
def test_every_shape_lies_inside_the_chart(series, marks):
    x, y = Axis("x", 0, 10, ".1%"), Axis("y", 0, 1.01, ".2%")

    chart = plot("t", x, y, series, marks=[(each, "end", "failed") for each in marks])

    points = np.concatenate([shape.points for shape in chart.shapes])
    assert (points >= 0).all()
    assert (points <= (charts.WIDTH, charts.HEIGHT)).all()
    kinds = [shape.kind for shape in chart.shapes if shape.style in ("main", "second", "failed")]
    num_points = sum(len(each.points) for each in series)
    assert kinds.count("dot") + kinds.count("bar") == num_points + len(marks)
    assert kinds.count("line") == sum(not each.width for each in series) + len(marks)
    assert len(chart.legend) == (len(series) if len(series) > 1 else 0)
    texts = [shape for shape in chart.shapes if shape.kind == "text"]
    assert {"1000.0 %", "100.00 %"} <= {shape.text for shape in texts}
    for shape in texts:  # no text is cut off
        [(left, _)], width = shape.points, 8.4 * len(shape.text)
        left -= {"start": 0, "middle": width / 2, "end": width}[shape.anchor]
        assert 0 <= left <= left + width <= charts.WIDTH + 1e-9


def test_bars_are_centred_on_their_digits_and_every_digit_is_labelled():
    counts = Counts(predicted=10, predicted_as=np.ones(10, np.int64))
    both = replace(counts, labelled=10, confusion=np.eye(10, dtype=np.int64))

    for number, each in ((1, counts), (2, both)):
        chart = prediction_report.digits_chart(each)

        ticks = [(s.text, s.points[0][0]) for s in chart.shapes if re.fullmatch(r"\d", s.text)]
        ticks = [each for each in ticks if each[1] > charts.LEFT]
        bars = [shape.points for shape in chart.shapes if shape.kind == "bar"]
        assert [text for text, _ in ticks] == list("0123456789")
        for digit, (_, middle) in enumerate(ticks):
            edges = [x for points in bars[digit::10] for x, _ in points]
            assert len(edges) == 2 * number
            assert min(edges) + max(edges) == pytest.approx(2 * middle)


def test_dots_of_the_calibration_have_the_area_of_their_bins():
    confidence = np.repeat([0.55, 0.95], [100, 400])

    chart = accuracy.reliability_chart(metrics.calibration(confidence, confidence > 0.5))

    small, large = [shape for shape in chart.shapes if shape.kind == "dot"]
    assert (large.radius / small.radius) ** 2 == pytest.approx(4)
    assert [shape.style for shape in chart.shapes if shape.kind == "line"].count("main") == 0
    assert "90 to 100 % (400 images): 100 %" in large.text


def test_every_shape_is_painted_in_its_colour():
    x, y = Axis("x", 0, 10, "g"), Axis("y", 0, 1, "g")
    series = [
        Series("line", [(0, 0.9), (10, 0.9)]),
        Series("bars", [(2, 0.5), (7, 0.3)], "second", 1),
        Series("dashes", [(0, 0.7), (10, 0.7)], "guide"),
    ]

    data = draw_png([plot("t", x, y, series, marks=[(4, "", "joined")])])

    found = {colour for _, colour in Image.open(BytesIO(data)).getcolors(1 << 24) or []}
    assert {(29, 78, 216), (180, 83, 9), (87, 96, 106), (26, 127, 55)} < found


def test_confusion_matrix_of_any_counts_is_drawn():
    for counts in (np.zeros((10, 10)), 7 * np.eye(10), np.full((10, 10), 1e6)):
        chart = confusion_chart(counts.astype(np.int64))

        opacities = {round(shape.opacity, 2) for shape in chart.shapes if shape.kind == "bar"}
        assert opacities <= {1, 0.4}
        assert draw_png([chart, chart])


def test_validation_loss_is_a_second_line_and_one_epoch_alone_is_drawn():
    row = {"loss": 0.0, "val_accuracy": 0.9, "learning_rate": 0.1}
    epochs = [row | {"epoch": n, "val_loss": 0.25 * n} for n in (1, 2, 3)]

    [losses, *others] = training_report.learning_charts(epochs)
    drawn = training_report.learning_charts([row | {"epoch": 1, "val_accuracy": None}])

    assert losses.legend == [("main", "training"), ("second", "validation")]
    assert [each.legend for each in others] == [[], []]
    assert [[shape.kind for shape in chart.shapes].count("dot") for chart in drawn] == [1, 1]


def test_colours_are_those_of_the_page():
    css = html.asset("page.css").split("@media")
    light = dict(re.findall(r"--(\w+): (#\w+);", css[0]))
    names = dict(re.findall(r"\.(\w+) { --paint: var\(--(\w+)\)", "".join(css[1:])))

    assert {style: light[name] for style, name in names.items()}.items() <= charts.COLOURS.items()
