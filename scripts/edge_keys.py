"""`python -m scripts.edge_keys`: see `pneumoscan.commands.keys`."""

import sys

from pneumoscan.commands.keys import main

if __name__ == "__main__":
    sys.exit(main())
