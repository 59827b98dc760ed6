"""`python -m scripts.prepare_data`: see `pneumoscan.commands.prepare`."""

import sys

from pneumoscan.commands.prepare import main

if __name__ == "__main__":
    sys.exit(main())
