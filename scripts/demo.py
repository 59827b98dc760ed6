"""`python -m scripts.demo`: the command `pneumoscan demo`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
