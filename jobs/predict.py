"""Entry point of `ray job submit -- python jobs/predict.py`: the flags of `nanograd predict`."""

import sys

from nanograd.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
