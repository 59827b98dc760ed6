"""`python -m scripts.prepare_data`: the command `pneumoscan prepare`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
