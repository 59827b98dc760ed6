"""`python -m scripts.make_toy_data`: the command `pneumoscan toy`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["toy", *sys.argv[1:]]))
