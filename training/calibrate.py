"""`python -m training.calibrate`: the command `pneumoscan calibrate`."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
