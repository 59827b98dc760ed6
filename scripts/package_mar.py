"""`python -m scripts.package_mar`: the command `pneumoscan pack`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["pack", *sys.argv[1:]]))
