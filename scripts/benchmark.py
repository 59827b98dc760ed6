"""`python -m scripts.benchmark`: the command `pneumoscan bench`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
