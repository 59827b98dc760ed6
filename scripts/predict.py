"""`python -m scripts.predict`: the command `pneumoscan predict`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
