"""What a process holds: to be compared before and after work that must leave nothing behind."""

import gc
import os
from pathlib import Path
from typing import NamedTuple


class Resources(NamedTuple):
    """The resources of a process."""

    descriptors: int
    threads: int
    mappings: int  # shared ones: private ones come and go with the allocator
    memory_bytes: int  # resident

    @classmethod
    def of(cls, pid: int | None = None) -> "Resources":
        """Return those of a process, by default of this one, without its garbage."""
        if pid is None:
            gc.collect()
        process = Path(f"/proc/{pid or os.getpid()}")
        return cls(
            len(list((process / "fd").iterdir())),
            len(list((process / "task").iterdir())),
            sum(line.split()[1].endswith("s") for line in (process / "maps").open()),
            int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        )
