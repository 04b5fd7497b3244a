from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from nanograd.tables.columns import find_image_column
from nanograd.tables.images import read_images
from nanograd.tables.rows import Reading
from tests.helpers.image_columns import PICTURE, bar_image, png


def test_a_path_is_followed_below_the_root_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "bar.png").write_bytes(png(bar_image()))
    (tmp_path / "secret.png").write_bytes(png(bar_image()))
    (root / "way-out.png").symlink_to(tmp_path / "secret.png")
    paths = [
        "deep/bar.png",
        str(root / "deep/bar.png"),
        "../secret.png",
        str(tmp_path / "secret.png"),
        "way-out.png",
        "deep/../../secret.png",
        "gone.png",
        "\0",
        None,
    ]
    table = pa.table(
        {"image": pa.array([{"bytes": None, "path": path} for path in paths], PICTURE)}
    )

    where = find_image_column(table.schema)
    decoded = read_images(table, where, Reading(image_root=str(root)))

    assert np.array_equal(decoded.images, [bar_image()] * 2)
    assert [each.reason for each in decoded.rejects] == [
        *["outside_root"] * 4,
        "no_file",
        "outside_root",
        "no_bytes",
    ]


def test_bytes_are_stronger_than_a_path(tmp_path: Path) -> None:
    rows = pa.array([{"bytes": png(bar_image()), "path": "../secret.png"}], PICTURE)
    table = pa.table({"image": rows})

    where = find_image_column(table.schema)
    decoded = read_images(table, where, Reading(image_root=str(tmp_path)))

    assert np.array_equal(decoded.images, [bar_image()])


@pytest.mark.parametrize("raw", [False, True], ids=["png", "raw"])
def test_normalise_always_moves_what_has_the_form_and_never_leaves_what_has_not(raw: bool) -> None:
    low = np.roll(bar_image().reshape(28, 28), 3, axis=0).reshape(784)
    column = pa.array([image.tobytes() if raw else png(image) for image in (bar_image(), low)])
    table = pa.table({"image": column})
    where = find_image_column(table.schema)

    never = read_images(table, where, Reading(normalise="never")).images
    always = read_images(table, where, Reading(normalise="always")).images

    assert np.array_equal(never, [bar_image(), low])
    assert not np.array_equal(always[0], bar_image())  # the pen is brought to MNIST's width
    assert [np.flatnonzero(each.reshape(28, 28).max(1)).tolist() for each in always] == [
        list(range(4, 24))
    ] * 2


def test_normalise_never_refuses_other_sizes_and_turns_round_what_is_said_dark() -> None:
    stream = BytesIO()
    Image.new("L", (29, 28)).save(stream, "PNG")
    table = pa.table({"image": [png(bar_image()), stream.getvalue()]})

    where = find_image_column(table.schema)
    reading = Reading(normalise="never", polarity="dark-on-light")
    decoded = read_images(table, where, reading)

    assert np.array_equal(decoded.images, [255 - bar_image()])
    assert [each.reason for each in decoded.rejects] == ["wrong_shape"]
