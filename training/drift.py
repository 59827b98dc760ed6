"""`python -m training.drift`: the command `pneumoscan drift`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["drift", *sys.argv[1:]]))
