import gc
import os
from collections.abc import Callable
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from nanograd.digits.form import to_png
from nanograd.images.rows import is_raw
from tests.helpers.image_columns import PICTURE, bar_image, read_column, reasons, spark
from tests.helpers.odd_files import BAD, encoded

SPARK = pa.struct(
    [
        ("origin", pa.string()),
        *((name, pa.int32()) for name in ("height", "width", "nChannels", "mode")),
        ("data", pa.binary()),
    ]
)


def test_path_is_followed_only_below_the_root(tmp_path):
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "bar.png").write_bytes(to_png(bar_image()))
    (tmp_path / "secret.png").write_bytes(to_png(bar_image()))
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
        *("x" * 300, "loop.png", "pipe", "deep", "deep/bar.png/x"),
        "\ud800.png".encode(errors="backslashreplace").decode(),
    ]
    (root / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "pipe")
    rows = [{"bytes": None, "path": path} for path in paths]

    found, rejections = read_column(rows, PICTURE, image_root=str(root))

    assert np.array_equal(found.images, [bar_image()] * 2)
    assert reasons(rejections) == [
        *((row, "outside_root") for row in range(2, 6)),
        *[(6, "no_file"), (7, "outside_root"), (8, "no_bytes")],
        *((row, "no_file") for row in range(9, 15)),
    ]


@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()])
def test_rows_have_the_paths_of_their_pictures(text):
    odd = b"l\xe4ufe.png"
    given = pa.array([b"7.png", b"", None, odd, b"bad.png"], pa.binary()).view(pa.string())
    files = [to_png(bar_image())] * 4 + [b"no picture"]
    column = pa.StructArray.from_arrays([pa.array(files), given.cast(text)], ["bytes", "path"])

    found, rejections = read_column(pa.chunked_array([column.slice(0, 2), column.slice(2)]))

    assert found.columns["path"].to_pylist() == ["7.png", "", "", r"l\xe4ufe.png"]
    assert rejections["path"].to_pylist() == ["bad.png"]


PATHS: dict[str, pa.DataType] = {
    "text": PICTURE,
    "no bytes at all": pa.struct([("path", pa.string())]),
    "null bytes": pa.struct([("bytes", pa.null()), ("path", pa.large_string())]),
    "view": pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),
    **{f"column of {type_}": type_ for type_ in (pa.string(), pa.large_string(), pa.string_view())},
}


@pytest.mark.parametrize("kind", PATHS)
def test_row_of_a_path_alone_says_how_it_would_be_read(kind, tmp_path):
    (tmp_path / "bar.png").write_bytes(to_png(bar_image()))
    rows: list[Any] = ["bar.png", "", None]
    if pa.types.is_struct(PATHS[kind]):
        nothing = {field.name: None for field in PATHS[kind]}
        rows = [{**nothing, "path": path} for path in rows]

    _, rejections = read_column(rows, PATHS[kind], image_column="image")
    options = {"image_root": str(tmp_path), "image_column": "image"}
    found, others = read_column(rows, PATHS[kind], **options)
    no_text = pa.struct([("bytes", pa.binary()), ("path", pa.binary())])
    _, none = read_column([{"bytes": None, "path": b"bar.png"}], no_text, image_root=str(tmp_path))
    both = [{"bytes": to_png(bar_image()), "path": "../secret.png"}]  # bytes take precedence

    assert reasons(rejections) == [(row, "no_bytes") for row in range(3)]
    assert (
        "bar.png; predict, train, evaluate and data have --image-root"
        in rejections["detail"][0].as_py()
    )
    assert np.array_equal(found.images, [bar_image()])
    assert found.columns["path"].to_pylist() == ["bar.png"]
    assert reasons(others) == [(1, "no_bytes"), (2, "no_bytes")]
    assert reasons(none) == [(0, "no_bytes")]
    assert len(read_column(both, PICTURE, image_root=str(tmp_path))[0].rows) == 1


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("", {"a.zip/7/ü.png": "", "./b.zip/7/ü.png": "", "a.zip/7/gone.png": "no_file"}),
        ("", {"a.zip": "broken_image", "a.zip/../../7.png": "outside_root"}),
        ("", {"broken.zip/7/ü.png": "broken_archive", "b.zip/7/ü.png": "", "b.zip/7": "no_file"}),
        ("b.zip", {"7/ü.png": "", "../a.zip/7/ü.png": "outside_root", "8.png": "no_file"}),
    ],
)
def test_path_may_lead_into_an_archive_below_the_root(root, expected, tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK")
    for name in ("a.zip", "b.zip"):
        with ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("7/ü.png", to_png(bar_image()))

    options = {"image_column": "image", "image_root": str(tmp_path / root)}
    found, rejections = read_column(list(expected), pa.string(), **options)

    assert found.images.tolist() == [bar_image().tolist()] * list(expected.values()).count("")
    assert [reason for _, reason in reasons(rejections)] == [*filter(None, expected.values())]


STARTS = [b"BM", b"\xff\xd8", b"\xff\xd8\xff\xff", b"P5", b"P6\x80", b"GIF8", b"RIFF", b"P1"]


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary(), pa.binary(784)], ids=str)
@pytest.mark.parametrize("start", STARTS)
def test_pixels_may_begin_like_a_picture_file(start, type_):
    data = start + bar_image().tobytes()[len(start) :]

    found, rejections = read_column([data], type_, normalise="never")

    assert not len(rejections)
    assert found.images.tobytes() == data


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_picture_file_of_784_bytes_is_a_picture_but_in_a_column_of_that_size(name):
    data = encoded(Image.new("L", (4, 4)), name).ljust(784, b"\0")[:784]

    assert not is_raw(data)
    assert reasons(read_column([data], pa.binary(784), normalise="never")[1]) == []


@pytest.mark.parametrize("raw", [False, True], ids=["png", "raw"])
def test_normalise_always_changes_and_never_keeps_every_image(raw):
    low = np.roll(bar_image().reshape(28, 28), 3, axis=0).reshape(784)
    column = [image.tobytes() if raw else to_png(image) for image in (bar_image(), low)]
    wide = encoded(Image.new("L", (29, 28)), "PNG")

    never, always = (
        read_column(column, normalise=normalise)[0].images for normalise in ("never", "always")
    )

    dark, refused = read_column([*column, wide], normalise="never", polarity="dark-on-light")
    assert np.array_equal(never, [bar_image(), low])
    assert np.array_equal(dark.images, 255 - never)
    assert reasons(refused) == [(2, "wrong_shape")]
    assert not np.array_equal(always[0], bar_image())  # the pen is adjusted to MNIST's width
    assert [np.flatnonzero(each.reshape(28, 28).max(1)).tolist() for each in always] == [
        list(range(4, 24))
    ] * 2


def test_spark_pictures_are_read_in_grey_colour_and_transparent():
    bar = bar_image().reshape(28, 28, 1)
    clear = np.concatenate([np.repeat(255 - bar, 3, 2), np.full_like(bar, 255)], axis=2)
    clear[bar[:, :, 0] == 0] = 0  # black paper, fully transparent
    blue = np.full((28, 28, 3), 255, np.uint8)
    blue[4:24, 13:15] = (255, 0, 0)  # blue comes first
    png = encoded(Image.fromarray(blue[:, :, ::-1]), "PNG")

    pictures = (bar, 0), (np.repeat(bar, 3, 2), 16), (clear, 24)
    found, rejections = read_column([spark(*each) for each in pictures], SPARK)
    of_png, _ = read_column([png], normalise="never")
    of_spark, _ = read_column([spark(blue, 16)], SPARK, normalise="never")

    assert not len(rejections)
    assert np.array_equal(found.images, [bar_image()] * 3)
    assert found.columns["path"].to_pylist() == ["file:///never/read.png"] * 3
    assert np.array_equal(of_spark.images, of_png.images)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": None}, "no_bytes"),
        ({"data": bytes(783)}, "broken_image"),
        ({"height": -1, "width": -1, "nChannels": -1, "data": b""}, "broken_image"),
        ({"nChannels": 2}, "broken_image"),
        ({"height": None}, "broken_image"),
        ({"height": 100_000, "width": 100_000}, "too_large"),
    ],
)
def test_broken_spark_picture_does_not_affect_others(change, reason):
    bar = spark(bar_image().reshape(28, 28, 1), 0)

    found, rejections = read_column([bar, bar | change, None, bar], SPARK)

    assert found.rows.tolist() == [0, 3]
    assert reasons(rejections) == [(1, reason), (2, "no_bytes")]


RAW_COLUMNS: dict[str, Callable[[pa.Array], pa.Array | pa.ChunkedArray]] = {
    "binary": lambda rows: rows,
    "large": lambda rows: rows.cast(pa.large_binary()),
    "view": lambda rows: rows.cast(pa.binary_view()),
    "dictionary": lambda rows: rows.dictionary_encode(),
    "slice": lambda rows: pa.concat_arrays([rows[3:], rows])[len(rows) - 3 :],
    "chunks": lambda rows: pa.chunked_array([rows[:1], rows[1:1], rows[1:6], rows[6:]]),
    "struct": lambda rows: pa.StructArray.from_arrays([rows], ["bytes"]),
    "slice of a struct": lambda rows: pa.concat_arrays(
        [pa.StructArray.from_arrays([each], ["bytes"]) for each in (rows[:5], rows)]
    )[5:],
}


@pytest.mark.parametrize("kind", RAW_COLUMNS)
@pytest.mark.parametrize("polarity", ["auto", "dark-on-light"])
def test_raw_rows_among_others_give_what_each_gives_alone(kind, polarity):
    bar, start = bar_image().tobytes(), b"\x89PNG"
    values = [bar, None, to_png(bar_image()), bytes(784), bar[:783], bar[::-1], b"", b"\xff" + bar]
    values += [start + bar[4:], b"P" + bar[1:], bytes(255 - bar_image()), b"\1" * 784]
    column = RAW_COLUMNS[kind](pa.array(values, pa.binary()))

    found, rejections = read_column(column, polarity=polarity)

    alone = [read_column([value], pa.binary(), polarity=polarity) for value in values]
    read = [row for row, (batch, _) in enumerate(alone) if len(batch.images)]
    assert found.rows.tolist() == read
    assert np.array_equal(found.images, np.concatenate([batch.images for batch, _ in alone]))
    assert rejections.drop("source_row").equals(
        pa.concat_tables(some.drop("source_row") for _, some in alone)
    )
    assert rejections["source_row"].to_pylist() == sorted({*range(len(values))} - {*read})


def collected() -> list[str]:
    """The kinds of objects that only the collector frees."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    kinds = [type(each).__name__ for each in gc.garbage]
    gc.garbage.clear()
    gc.set_debug(0)
    return [kind for kind in kinds if kind in ("UnreadableError", "Candidate", "ndarray")]


REFUSED: dict[str, dict[str, object]] = {
    **{path: {"path": path} for path in ("../x.png", "none.png")},
    **{name: {"bytes": BAD[name][1]()} for name in ("text.png", "white.png", "several.png")},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_row_is_freed_at_once(kind, tmp_path):
    """Its traceback has the frames of its readers, and these have the batch."""
    values, options = [REFUSED[kind]] * 3, {"image_root": str(tmp_path)}
    gc.disable()
    try:
        read_column(values, PICTURE, **options)
        gc.collect()  # also what other tests left, which `collected` would find again

        _, rejections = read_column(values, PICTURE, **options)

        assert len(rejections) == 3
        assert collected() == []
    finally:
        gc.enable()
