from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from nanograd.data.columns import find_image_column, find_label_column
from nanograd.data.parquet import (
    PREDICTIONS,
    QUARANTINE,
    Decoded,
    read_images,
    read_labels,
)
from nanograd.data.rows import Reading
from nanograd.errors import DataError

SHARED = Path(__file__).parents[2].parent / "shared/data"
Images = NDArray[np.uint8]
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="module")
def images() -> Images:
    """Seven arrays of 784 bytes; none begins like a picture file."""
    images = np.random.default_rng(7).integers(0, 256, (7, 784), dtype=np.uint8)
    images[:, 0] = 0
    return images


def _png(pixels: Images) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels.reshape(28, 28)).save(stream, "PNG")
    return stream.getvalue()


def _bar() -> Images:
    """A picture that passes the normaliser unchanged: 20 pixels tall, in the middle."""
    image = np.zeros((28, 28), np.uint8)
    image[4:24, 13:15] = 255
    return image.reshape(784)


def _read(column: pa.Array | Sequence[Any], type_: pa.DataType | None = None) -> Decoded:
    array = column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column, type_)
    table = pa.table({"image": array})
    where = find_image_column(table.schema)
    return read_images(table, where, Reading())


def _fixed(images: Images) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 784)


def _tensor(images: Images) -> pa.Array:
    type_ = pa.fixed_shape_tensor(pa.uint8(), (28, 28))
    return pa.ExtensionArray.from_storage(type_, _fixed(images))


NUMBER_COLUMNS = {
    "fixed-size list": _fixed,
    "tensor": _tensor,
    "list of integers": lambda images: pa.array(images.tolist(), pa.list_(pa.int64())),
    "large list": lambda images: pa.array(images.tolist(), pa.large_list(pa.uint8())),
    "floats to 255": lambda images: pa.array(images.tolist(), pa.list_(pa.float32())),
    "floats to 1": lambda images: pa.array((images / 255).tolist(), pa.list_(pa.float64())),
    "half floats": lambda images: pa.array(list(images.astype(np.float16))),
    "28 x 28 lists": lambda images: pa.array(images.reshape(-1, 28, 28).tolist()),
    "1 x 28 x 28 lists": lambda images: pa.array(images.reshape(-1, 1, 28, 28).tolist()),
    "raw bytes": lambda images: pa.array([image.tobytes() for image in images]),
    "views of raw bytes": lambda images: pa.array(
        [image.tobytes() for image in images], pa.binary_view()
    ),
    "variable tensors": lambda images: pa.array(
        [{"data": image.tolist(), "shape": [28, 28]} for image in images],
        pa.struct([("data", pa.list_(pa.uint8())), ("shape", pa.list_(pa.int64()))]),
    ),
    "raw bytes in a dictionary": lambda images: pa.array(
        [image.tobytes() for image in images]
    ).dictionary_encode(),
    "fixed-size raw bytes": lambda images: pa.array(
        [image.tobytes() for image in images], pa.binary(784)
    ),
}


@pytest.mark.parametrize("kind", NUMBER_COLUMNS)
def test_numbers_are_taken_as_they_are(kind: str, images: Images) -> None:
    decoded = _read(NUMBER_COLUMNS[kind](images))

    assert decoded.images.dtype == np.uint8
    assert np.array_equal(decoded.images, images)
    assert decoded.rows.tolist() == list(range(7))
    assert decoded.rejects == []


@pytest.mark.parametrize("kind", NUMBER_COLUMNS)
def test_a_slice_in_several_chunks_reads_its_own_rows(kind: str, images: Images) -> None:
    column = pa.chunked_array([NUMBER_COLUMNS[kind](images)] * 2).slice(5, 4)

    decoded = _read(column)

    assert np.array_equal(decoded.images, images[[5, 6, 0, 1]])


@pytest.mark.parametrize("kind", NUMBER_COLUMNS)
def test_no_rows_give_no_images(kind: str, images: Images) -> None:
    decoded = _read(NUMBER_COLUMNS[kind](images)[:0])

    assert decoded.images.shape == (0, 784)
    assert len(decoded.rows) == 0


@pytest.mark.parametrize("kind", [kind for kind in NUMBER_COLUMNS if kind != "tensor"])
def test_a_null_row_touches_no_other(kind: str, images: Images) -> None:
    column = NUMBER_COLUMNS[kind](images)

    decoded = _read(pa.concat_arrays([column[:2], pa.nulls(1, column.type), column[2:]]))

    assert np.array_equal(decoded.images, images)
    assert decoded.rows.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert [reject.row for reject in decoded.rejects] == [2]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([float("nan")] * 784, "bad_pixel"),
        ([float("inf")] * 784, "bad_pixel"),
        ([-0.5] + [1.0] * 783, "bad_pixel"),
        ([256.0] * 784, "bad_pixel"),
        ([None] + [0.0] * 783, "wrong_shape"),
        ([0.0] * 783, "wrong_shape"),
        ([], "wrong_shape"),
    ],
)
def test_a_bad_row_of_numbers_touches_no_other(value: list[float], reason: str) -> None:
    decoded = _read([[0.0] * 784, value, [255.0] * 784], pa.list_(pa.float64()))

    assert decoded.images.max(axis=1).tolist() == [0, 255]
    assert decoded.rows.tolist() == [0, 2]
    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [(1, reason)]


def test_a_picture_struct_is_read_and_its_path_never_followed(tmp_path: Path) -> None:
    (tmp_path / "bar.png").write_bytes(_png(_bar()))
    rows = [
        {"bytes": _png(_bar()), "path": None},
        {"bytes": None, "path": str(tmp_path / "bar.png")},
        None,
    ]

    decoded = _read(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    assert np.array_equal(decoded.images, [_bar()])
    assert [(row, reason) for row, reason, _ in decoded.rejects] == [
        (1, "no_bytes"),
        (2, "no_bytes"),
    ]


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary()])
def test_pictures_and_raw_bytes_may_share_a_column(type_: pa.DataType, images: Images) -> None:
    rows = [_png(_bar()), images[0].tobytes(), b"", b"no picture", _png(_bar())[:60]]

    decoded = _read(rows, type_)

    assert np.array_equal(decoded.images, [_bar(), images[0]])
    assert decoded.rows.tolist() == [0, 1]
    assert [reason for _, reason, _ in decoded.rejects] == ["empty", "broken_image", "broken_image"]


def test_an_unreadable_picture_is_rejected_with_the_normalisers_reason() -> None:
    blank = np.zeros(784, np.uint8)

    decoded = _read([_png(blank), _png(_bar())])

    assert [(row, reason) for row, reason, _ in decoded.rejects] == [(0, "blank")]


@pytest.mark.parametrize(
    "names",
    [
        [f"pixel{place}" for place in range(784)],
        [f"pixel{place}" for place in range(1, 785)],
        [f"{row}x{column}" for row in range(1, 29) for column in range(1, 29)],
    ],
    ids=["pixel0", "pixel1", "1x1"],
)
def test_flat_columns_are_put_in_order(names: list[str], images: Images) -> None:
    shuffled = np.random.default_rng(0).permutation(784)
    table = pa.table({names[place]: images[:, place] for place in shuffled})

    decoded = read_images(table, find_image_column(table.schema), Reading())

    assert np.array_equal(decoded.images, images)


def test_a_tensor_column_survives_a_parquet_file(tmp_path: Path, images: Images) -> None:
    pq.write_table(pa.table({"image": _tensor(images)}), tmp_path / "tensors.parquet")

    decoded = _read(pq.read_table(tmp_path / "tensors.parquet").column("image"))

    assert np.array_equal(decoded.images, images)


def test_rays_tensor_column_is_read_without_ray(images: Images) -> None:
    # What a process without Ray sees of its extension type in a Parquet file.
    metadata = {"ARROW:extension:name": "ray.data.arrow_tensor_v2"}
    field = pa.field("image", pa.large_list(pa.uint8()), metadata=metadata)
    table = pa.table([pa.array(images.tolist(), field.type)], schema=pa.schema([field]))

    decoded = read_images(table, find_image_column(table.schema), Reading())

    assert np.array_equal(decoded.images, images)


SPARK = pa.struct(
    [
        ("origin", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("nChannels", pa.int32()),
        ("mode", pa.int32()),
        ("data", pa.binary()),
    ]
)


def _spark(pixels: Images, mode: int) -> dict[str, Any]:
    """What Spark stores of (height, width, channels)."""
    height, width, channels = pixels.shape
    return {
        "origin": "file:///never/read.png",
        "height": height,
        "width": width,
        "nChannels": channels,
        "mode": mode,
        "data": pixels.tobytes(),
    }


def test_sparks_pictures_are_read_in_grey_colour_and_transparent() -> None:
    bar = _bar().reshape(28, 28, 1)
    clear = np.concatenate([np.repeat(255 - bar, 3, 2), np.full_like(bar, 255)], axis=2)
    clear[bar[:, :, 0] == 0] = 0  # black paper, wholly transparent

    decoded = _read([_spark(bar, 0), _spark(np.repeat(bar, 3, 2), 16), _spark(clear, 24)], SPARK)

    assert decoded.rejects == []
    assert np.array_equal(decoded.images, [_bar()] * 3)


def test_sparks_colours_are_blue_first() -> None:
    pixels = np.full((28, 28, 3), 255, np.uint8)
    pixels[4:24, 13:15] = (255, 0, 0)
    wanted = Image.fromarray(pixels[:, :, ::-1])
    stream = BytesIO()
    wanted.save(stream, "PNG")

    spark, png = _read([_spark(pixels, 16)], SPARK), _read([stream.getvalue()])

    assert np.array_equal(spark.images, png.images)


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
def test_sparks_broken_picture_touches_no_other(change: dict[str, Any], reason: str) -> None:
    bar = _spark(_bar().reshape(28, 28, 1), 0)

    decoded = _read([bar, bar | change, None, bar], SPARK)

    assert decoded.rows.tolist() == [0, 3]
    assert [each.reason for each in decoded.rejects] == [reason, "no_bytes"]


def test_a_path_is_followed_below_the_root_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "bar.png").write_bytes(_png(_bar()))
    (tmp_path / "secret.png").write_bytes(_png(_bar()))
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

    assert np.array_equal(decoded.images, [_bar()] * 2)
    assert [each.reason for each in decoded.rejects] == [
        *["outside_root"] * 4,
        "no_file",
        "outside_root",
        "no_bytes",
    ]


def test_bytes_are_stronger_than_a_path(tmp_path: Path) -> None:
    rows = pa.array([{"bytes": _png(_bar()), "path": "../secret.png"}], PICTURE)
    table = pa.table({"image": rows})

    where = find_image_column(table.schema)
    decoded = read_images(table, where, Reading(image_root=str(tmp_path)))

    assert np.array_equal(decoded.images, [_bar()])


@pytest.mark.parametrize("raw", [False, True], ids=["png", "raw"])
def test_normalise_always_moves_what_has_the_form_and_never_leaves_what_has_not(raw: bool) -> None:
    low = np.roll(_bar().reshape(28, 28), 3, axis=0).reshape(784)
    column = pa.array([image.tobytes() if raw else _png(image) for image in (_bar(), low)])
    table = pa.table({"image": column})
    where = find_image_column(table.schema)

    never = read_images(table, where, Reading(normalise="never")).images
    always = read_images(table, where, Reading(normalise="always")).images

    assert np.array_equal(never, [_bar(), low])
    assert not np.array_equal(always[0], _bar())  # the pen is brought to MNIST's width
    assert [np.flatnonzero(each.reshape(28, 28).max(1)).tolist() for each in always] == [
        list(range(4, 24))
    ] * 2


def test_normalise_never_refuses_other_sizes_and_turns_round_what_is_said_dark() -> None:
    stream = BytesIO()
    Image.new("L", (29, 28)).save(stream, "PNG")
    table = pa.table({"image": [_png(_bar()), stream.getvalue()]})

    where = find_image_column(table.schema)
    reading = Reading(normalise="never", polarity="dark-on-light")
    decoded = read_images(table, where, reading)

    assert np.array_equal(decoded.images, [255 - _bar()])
    assert [each.reason for each in decoded.rejects] == ["wrong_shape"]


def test_a_pickled_column_is_refused() -> None:
    metadata = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}
    schema = pa.schema([pa.field("image", pa.large_binary(), metadata=metadata)])

    with pytest.raises(DataError, match="pickled"):
        find_image_column(schema)


def test_an_unknown_schema_names_its_columns_and_the_flag() -> None:
    schema = pa.schema([("name", pa.string()), ("age", pa.int64())])

    with pytest.raises(DataError, match=r"name, age.*--image-column"):
        find_image_column(schema)


def test_two_unnamed_candidates_are_not_guessed_at() -> None:
    schema = pa.schema([("left", pa.binary()), ("right", pa.binary())])

    with pytest.raises(DataError, match="left, right"):
        find_image_column(schema)


def test_the_users_word_decides_between_candidates() -> None:
    schema = pa.schema([("image", pa.binary()), ("right", pa.binary())])

    column = find_image_column(schema, "right")

    assert column.names == ("right",)


def test_a_missing_image_column_is_named() -> None:
    with pytest.raises(DataError, match="'scan'"):
        find_image_column(pa.schema([("image", pa.binary())]), "scan")


@pytest.mark.parametrize("name", ["label", "digit", "target", "y"])
def test_the_label_column_is_found_by_its_usual_names(name: str) -> None:
    schema = pa.schema([("image", pa.binary()), (name, pa.uint8())])

    assert find_label_column(schema) == name


def test_a_column_of_text_is_no_label_column() -> None:
    assert find_label_column(pa.schema([("label", pa.string())])) is None


@pytest.mark.parametrize("name", ["class", "label"])
def test_a_named_label_column_must_hold_whole_numbers(name: str) -> None:
    with pytest.raises(DataError, match=name):
        find_label_column(pa.schema([("label", pa.float64())]), name)


@pytest.mark.parametrize("type_", [pa.int8(), pa.int64(), pa.uint64()])
def test_labels_are_digits_or_absent_or_rejected(type_: pa.DataType) -> None:
    table = pa.table({"label": pa.array([3, None, 10, 0], type_)})

    labels, rejects = read_labels(table, "label")

    assert labels.dtype == np.int8
    assert labels[[0, 1, 3]].tolist() == [3, -1, 0]
    assert [(reject.row, reject.reason) for reject in rejects] == [(2, "bad_label")]


def test_a_label_beyond_64_bits_is_rejected() -> None:
    table = pa.table({"label": pa.array([2**64 - 1, 2**64 - 7], pa.uint64())})

    rejects = read_labels(table, "label")[1]

    assert [reject.reason for reject in rejects] == ["bad_label"] * 2


def test_no_label_column_gives_no_labels() -> None:
    labels, rejects = read_labels(pa.table({"image": [b"", b""]}), None)

    assert (labels.tolist(), rejects) == ([-1, -1], [])


def test_the_output_schemas_are_those_of_the_design() -> None:
    scores = PREDICTIONS.field("scores").type

    assert PREDICTIONS.names == [
        "source_file",
        "source_row",
        "prediction",
        "confidence",
        "scores",
        "label",
    ]
    assert (scores.value_type, scores.list_size) == (pa.float32(), 10)
    assert QUARANTINE.names == ["source_file", "source_row", "reason", "detail"]


def test_every_picture_of_optdigits_is_read() -> None:
    file = SHARED / "handwriting/optdigits-test.parquet"
    if not file.exists():
        pytest.skip("the shared handwriting files are not here")
    table = pq.read_table(file)

    decoded = read_images(table, find_image_column(table.schema), Reading())

    assert len(decoded.rows) == table.num_rows == 946
