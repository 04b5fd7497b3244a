"""Print what the normaliser makes of photos of every kind, as JSON: a checksum for each kind.

Run with the variables of `kernel.variables`, the checksums are those of every x86-64 processor.
"""

import json
from hashlib import sha256

import numpy as np
import PIL

from nanograd.errors import UnreadableError
from nanograd.images import sources
from nanograd.pictures.decode import decode
from nanograd.pictures.normalise import normalise
from simulators.photos import photograph
from simulators.scenes import KINDS

NUM_PHOTOS = 4


def outcome(photo: bytes) -> bytes:
    try:
        return normalise(decode(photo)).tobytes()
    except UnreadableError as error:
        return str(error.reason).encode()


def checksums() -> dict[str, str]:
    digits = sources.load_test(["sample"]).images.reshape(-1, 28, 28)
    found = {}
    for number, kind in enumerate(KINDS):
        digest = sha256()
        for seed in range(NUM_PHOTOS):
            digit = digits[(number * NUM_PHOTOS + seed) * 7 % len(digits)]
            digest.update(outcome(photograph(digit, kind, seed)))
        found[kind] = digest.hexdigest()[:16]
    return found


if __name__ == "__main__":
    versions = [np.__version__, PIL.__version__]
    print(json.dumps({"versions": versions, "kinds": checksums()}, indent=1))  # noqa: T201
