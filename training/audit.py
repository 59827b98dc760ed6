"""`python -m training.audit`: the command `pneumoscan audit`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["audit", *sys.argv[1:]]))
