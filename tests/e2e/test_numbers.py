"""Pictures of numbers through the command: the same bytes with Ray and without."""

from pathlib import Path

from simulators.own_numbers import draw_numbers
from tests.conftest import Nanograd
from tests.helpers.folders import untimed_contents
from tests.helpers.head import Head
from tests.helpers.processes import finish, start


def test_numbers_are_the_same_bytes_with_ray_and_without(
    nanograd: Nanograd, tmp_path: Path, head: Head
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (_, picture) in enumerate(draw_numbers(9, 3)):
        picture.convert("L").save(folder / f"{number}.png")
    (folder / "none.png").write_bytes(b"no picture")
    command = ["predict", str(folder), "--digits", "many", "--rows-per-file", "3", "--workers"]

    without = nanograd(*command, "0", "--output", "0")
    result, _ = finish(start(*command, "2", "--output", str(tmp_path / "2"), **head.joining))

    assert without.code == 0, without.stderr
    assert untimed_contents(tmp_path / "2") == untimed_contents(tmp_path / "0")
    assert (result["rows"], result["quarantined"]) == (10, 1)
    assert len(list((tmp_path / "0" / "numbers").glob("part-*.parquet"))) > 1
