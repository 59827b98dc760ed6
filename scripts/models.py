"""`python -m scripts.models`: the command `pneumoscan models`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["models", *sys.argv[1:]]))
