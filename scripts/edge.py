"""`python -m scripts.edge`: the command `pneumoscan edge`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["edge", *sys.argv[1:]]))
