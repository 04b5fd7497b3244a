"""Printed lines, on ink that was measured before."""

import numpy as np
from PIL import Image

from nanograd.numbers.printed import find_printed
from nanograd.pictures.normalise import Candidate
from nanograd.pictures.paper import Levels


def test_rules_are_found_where_a_digit_joins_them_to_the_margin() -> None:
    rules, ink = range(30, 360, 33), np.zeros((360, 480), np.float32)
    ink[rules, :380] = ink[30, :] = 0.2
    ink[:, 60] = 0.2
    ink[100:130, 200:206] = 0.8
    levels, page = Levels(strong=0.3, weak=0.15), Image.new("L", (480, 360))

    found = find_printed(Candidate(picture=page, ink=ink, levels=levels, marks=ink > 0.5), 0.15)

    assert found is not None
    assert (found[rules, 300] > 0.15).all()
