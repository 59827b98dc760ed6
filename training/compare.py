"""`python -m training.compare`: the command `pneumoscan compare`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
