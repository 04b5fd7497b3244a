"""A refused row leaves nothing that only the garbage collector frees: its traceback has the frames
of its readers, and these have the batch."""

import gc
from collections.abc import Iterator

import pyarrow as pa
import pytest

from nanograd.images.reader import read_table
from nanograd.settings.specs import ReadOptions
from tests.helpers.odd_files import BAD


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


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
    type_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([REFUSED[kind]] * 3, type_)})
    options = ReadOptions(image_root=str(tmp_path))
    read_table(table, options)
    gc.collect()  # also what other tests left, which `collected` would find again

    _, rejections = read_table(table, options)

    assert len(rejections) == 3
    assert collected() == []
