import numpy as np

from nanograd.digits.form import centre_of_mass


def test_centre_of_mass_is_row_then_column() -> None:
    image = np.zeros((7, 9), np.uint8)
    image[2, 5] = image[4, 6] = 200

    assert centre_of_mass(image) == (3.0, 5.5)
