"""`python -m scripts.web`: see `pneumoscan.commands.web`."""

import sys

from pneumoscan.commands.web import main

if __name__ == "__main__":
    sys.exit(main())
