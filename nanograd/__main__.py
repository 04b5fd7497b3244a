"""`python -m nanograd` is `nanograd`."""

from nanograd.cli import main

if __name__ == "__main__":
    main()
