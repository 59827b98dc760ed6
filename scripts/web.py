"""`python -m scripts.web`: the command `pneumoscan web`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["web", *sys.argv[1:]]))
