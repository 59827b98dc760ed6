"""`python -m scripts.models`: see `pneumoscan.commands.models`."""

import sys

from pneumoscan.commands.models import main

if __name__ == "__main__":
    sys.exit(main())
