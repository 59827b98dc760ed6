"""`python -m training.model_card`: the command `pneumoscan card`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["card", *sys.argv[1:]]))
