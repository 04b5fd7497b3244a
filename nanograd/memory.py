"""Memory that freed arrays leave behind stays with the process."""

import ctypes

# Of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_MOST_BYTES = 1 << 30


def keep_freed() -> None:
    """Tell the C library not to give freed memory back to the system.

    A round makes and frees arrays of some 200 KB by the dozen. The GNU C library returns them each
    time and takes the page faults of having them again: a third of a worker's time when images
    are distorted (2 Ray workers, 44,600 images/s against 62,500; 2026-11-25). Other C libraries
    have no mallopt; there, nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _MOST_BYTES)
        mallopt(_MMAP_THRESHOLD, _MOST_BYTES)
