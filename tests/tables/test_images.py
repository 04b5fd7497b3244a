from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanograd.tables.columns import find_image_column
from nanograd.tables.images import PREDICTIONS, QUARANTINE, read_images, read_labels
from nanograd.tables.rows import Reading
from tests.helpers.image_columns import Images, bar_image, png, read

SHARED = Path(__file__).parents[2].parent / "shared/data"


@pytest.fixture(scope="module")
def images() -> Images:
    """Seven arrays of 784 bytes; none begins like a picture file."""
    images = np.random.default_rng(7).integers(0, 256, (7, 784), dtype=np.uint8)
    images[:, 0] = 0
    return images


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
    decoded = read(NUMBER_COLUMNS[kind](images))

    assert decoded.images.dtype == np.uint8
    assert np.array_equal(decoded.images, images)
    assert decoded.rows.tolist() == list(range(7))
    assert decoded.rejects == []


@pytest.mark.parametrize("kind", NUMBER_COLUMNS)
def test_a_slice_in_several_chunks_reads_its_own_rows(kind: str, images: Images) -> None:
    column = pa.chunked_array([NUMBER_COLUMNS[kind](images)] * 2).slice(5, 4)

    decoded = read(column)

    assert np.array_equal(decoded.images, images[[5, 6, 0, 1]])


@pytest.mark.parametrize("kind", NUMBER_COLUMNS)
def test_no_rows_give_no_images(kind: str, images: Images) -> None:
    decoded = read(NUMBER_COLUMNS[kind](images)[:0])

    assert decoded.images.shape == (0, 784)
    assert len(decoded.rows) == 0


@pytest.mark.parametrize("kind", [kind for kind in NUMBER_COLUMNS if kind != "tensor"])
def test_a_null_row_touches_no_other(kind: str, images: Images) -> None:
    column = NUMBER_COLUMNS[kind](images)

    decoded = read(pa.concat_arrays([column[:2], pa.nulls(1, column.type), column[2:]]))

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
    decoded = read([[0.0] * 784, value, [255.0] * 784], pa.list_(pa.float64()))

    assert decoded.images.max(axis=1).tolist() == [0, 255]
    assert decoded.rows.tolist() == [0, 2]
    assert [(reject.row, reject.reason) for reject in decoded.rejects] == [(1, reason)]


def test_a_picture_struct_is_read_and_its_path_never_followed(tmp_path: Path) -> None:
    (tmp_path / "bar.png").write_bytes(png(bar_image()))
    rows = [
        {"bytes": png(bar_image()), "path": None},
        {"bytes": None, "path": str(tmp_path / "bar.png")},
        None,
    ]

    decoded = read(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

    assert np.array_equal(decoded.images, [bar_image()])
    assert [(row, reason) for row, reason, _ in decoded.rejects] == [
        (1, "no_bytes"),
        (2, "no_bytes"),
    ]


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary()])
def test_pictures_and_raw_bytes_may_share_a_column(type_: pa.DataType, images: Images) -> None:
    rows = [png(bar_image()), images[0].tobytes(), b"", b"no picture", png(bar_image())[:60]]

    decoded = read(rows, type_)

    assert np.array_equal(decoded.images, [bar_image(), images[0]])
    assert decoded.rows.tolist() == [0, 1]
    assert [reason for _, reason, _ in decoded.rejects] == ["empty", "broken_image", "broken_image"]


def test_an_unreadable_picture_is_rejected_with_the_normalisers_reason() -> None:
    blank = np.zeros(784, np.uint8)

    decoded = read([png(blank), png(bar_image())])

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

    decoded = read(pq.read_table(tmp_path / "tensors.parquet").column("image"))

    assert np.array_equal(decoded.images, images)


def test_rays_tensor_column_is_read_without_ray(images: Images) -> None:
    # What a process without Ray sees of its extension type in a Parquet file.
    metadata = {"ARROW:extension:name": "ray.data.arrow_tensor_v2"}
    field = pa.field("image", pa.large_list(pa.uint8()), metadata=metadata)
    table = pa.table([pa.array(images.tolist(), field.type)], schema=pa.schema([field]))

    decoded = read_images(table, find_image_column(table.schema), Reading())

    assert np.array_equal(decoded.images, images)


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
