"""`python -m scripts.demo`: see `pneumoscan.commands.demo`."""

import sys

from pneumoscan.commands.demo import main

if __name__ == "__main__":
    sys.exit(main())
