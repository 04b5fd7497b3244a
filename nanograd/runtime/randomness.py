"""Random number streams of a counter-based generator, the only source of random numbers.

Raw 64-bit output is used, never `Generator` methods: numpy guarantees that the former never
changes; the latter may change with a release (NEP 19).

References:
    Salmon, Moraes, Dror, Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", section 3.
"""

import numpy as np
from numpy.random import Philox

# Second word of the key: the epoch, which counts from 0, or one of these.
SPLIT = 2**63
INIT = 2**63 + 1
VARIANTS = 2**63 + 2
HARDER = 2**63 + 3


def stream(seed: int, purpose: int, shard: int = 0, block: int = 0) -> Philox:
    """Return an independent stream of random numbers for each (seed, purpose, shard, block).

    Args:
        seed: 0 to 2**63 - 1.
        purpose: an epoch, SPLIT, INIT, VARIANTS or HARDER.
        shard: draws of different shards never overlap.
        block: draws of different blocks do not overlap either, below 2**128 draws.

    >>> int(stream(0, 3, 1).random_raw()) == int(stream(0, 3, 1).random_raw())
    True
    """
    # Arrays of uint64: numpy would convert a list to float64 and lose the low bits.
    key = np.array([seed, purpose], np.uint64)
    return Philox(key=key, counter=np.array([0, 0, block, shard], np.uint64))
