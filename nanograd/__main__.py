"""The entry point of `nanograd` and `python -m nanograd`."""

import sys

try:  # `main` handles signals only after it is imported
    from nanograd.runtime.signals import Terminated, signals_raise

    with signals_raise():
        from nanograd.cli import main
except KeyboardInterrupt:
    sys.stderr.write("nanograd: interrupted\n")
    sys.exit(130)
except Terminated:
    sys.stderr.write("nanograd: stopped by SIGTERM; run the same command again to continue\n")
    sys.exit(75)

if __name__ == "__main__":
    main()
