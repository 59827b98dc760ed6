"""`python -m training.quantise`: the command `pneumoscan quantise`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["quantise", *sys.argv[1:]]))
