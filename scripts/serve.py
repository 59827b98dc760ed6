"""`python -m scripts.serve`: the command `pneumoscan serve`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
