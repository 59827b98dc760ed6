"""`python -m scripts.predict`: see `pneumoscan.commands.predict`."""

import sys

from pneumoscan.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
