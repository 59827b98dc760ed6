"""`python -m scripts.edge`: see `pneumoscan.commands.edge`."""

import sys

from pneumoscan.commands.edge import main

if __name__ == "__main__":
    sys.exit(main())
