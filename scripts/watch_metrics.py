"""`python -m scripts.watch_metrics`: the command `pneumoscan watch`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["watch", *sys.argv[1:]]))
