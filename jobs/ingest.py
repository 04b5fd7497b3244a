"""Entry point of `ray job submit -- python jobs/ingest.py`: the flags of `nanograd ingest`."""

import sys

from nanograd.cli import main

if __name__ == "__main__":
    main(["ingest", *sys.argv[1:]])
