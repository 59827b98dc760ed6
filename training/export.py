"""`python -m training.export`: the command `pneumoscan export`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
