"""`python -m scripts.serve`: see `pneumoscan.commands.serve`."""

import sys

from pneumoscan.commands.serve import main

if __name__ == "__main__":
    sys.exit(main())
