"""docs/places.md lists the places that `make test-places` makes, with the codes that it expects."""

from simulators.places import PLACES
from tests.conftest import ROOT
from tests.places.test_places import ENDS, OK


def test_page_lists_every_place_with_its_exit_codes() -> None:
    lines = (ROOT / "docs" / "places.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:2] == "| "]

    listed = {name: cells for name, *cells in rows if name in PLACES}
    assert listed.keys() == PLACES.keys()
    for name, cells in listed.items():
        for cell, (code, _) in zip(cells, ENDS.get(name, (OK, OK)), strict=True):
            assert cell.startswith(str(code) if code else "result"), name
