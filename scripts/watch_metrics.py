"""`python -m scripts.watch_metrics`: see `pneumoscan.commands.watch`."""

import sys

from pneumoscan.commands.watch import main

if __name__ == "__main__":
    sys.exit(main())
