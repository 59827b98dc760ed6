"""``python -m pneumoscan``: the console command."""

import sys

from pneumoscan.cli import main

if __name__ == "__main__":
    sys.exit(main())
