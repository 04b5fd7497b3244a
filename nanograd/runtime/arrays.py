"""Type aliases of arrays, by dtype; comments and docstrings give the shapes."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]
Ints: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.floating]  # float32 wherever there is one value a pixel
Doubles: TypeAlias = NDArray[np.float64]
