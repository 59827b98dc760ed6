"""`python -m training.evaluate`: the command `pneumoscan evaluate`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
