"""`python -m scripts.edge_keys`: the command `pneumoscan keys`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["keys", *sys.argv[1:]]))
