"""Entry point of `ray job submit -- python jobs/train.py`: the flags of `nanograd train`."""

import sys

from nanograd.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
