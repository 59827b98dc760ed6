"""`python -m training.train`: the command `pneumoscan train`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
