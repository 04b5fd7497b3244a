"""The entry point of `nanograd` and `python -m nanograd`."""

import sys

try:
    from nanograd.cli import main
except KeyboardInterrupt:  # `main` handles Ctrl-C only after it is imported
    sys.stderr.write("nanograd: interrupted\n")
    sys.exit(130)

if __name__ == "__main__":
    main()
