"""Pictures of numbers through the command: the same bytes with Ray and without."""

from pathlib import Path

from simulators.own_numbers import draw_numbers
from tests.helpers.folders import untimed_contents
from tests.helpers.head import Head
from tests.helpers.processes import finish, start


def test_numbers_are_the_same_bytes_with_ray_and_without(tmp_path: Path, head: Head) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (_, picture) in enumerate(draw_numbers(9, 3)):
        picture.convert("L").save(folder / f"{number}.png")
    (folder / "none.png").write_bytes(b"no picture")
    command = ["predict", str(folder), "--digits", "many", "--rows-per-file", "3", "--workers"]

    results = {}
    for workers in ("0", "2"):
        words = (*command, workers, "--output", str(tmp_path / workers))
        results[workers], _ = finish(start(*words, **(head.joining if workers == "2" else {})))
    assert untimed_contents(tmp_path / "2") == untimed_contents(tmp_path / "0")
    assert (results["2"]["rows"], results["2"]["quarantined"]) == (10, 1)
    assert len(list((tmp_path / "0" / "numbers").glob("part-*.parquet"))) > 1
