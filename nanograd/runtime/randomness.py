"""Random number streams of a counter-based generator, the only source of random numbers.

The package uses raw 64-bit output, never methods of `Generator`: numpy guarantees that raw output
never changes, while the methods may change with a release (NEP 19).

References:
    Salmon, Moraes, Dror, Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", section 3.
"""

import numpy as np
from numpy.random import Philox

# The second word of the key is an epoch, from 0, or one of these purposes.
SPLIT = 2**63
INIT = 2**63 + 1
VARIANTS = 2**63 + 2
HARDER = 2**63 + 3


def stream(seed: int, purpose: int, shard: int = 0, block: int = 0) -> Philox:
    """Return a stream of random numbers; different arguments give independent streams.

    The seed is 0 to 2**63 - 1, the purpose an epoch, SPLIT, INIT, VARIANTS or HARDER. Blocks
    overlap only after 2**128 random numbers.

    >>> int(stream(0, 3, 1).random_raw()) == int(stream(0, 3, 1).random_raw())
    True
    """
    # numpy would convert a list to float64, which loses the low bits.
    key = np.array([seed, purpose], np.uint64)
    return Philox(key=key, counter=np.array([0, 0, block, shard], np.uint64))
