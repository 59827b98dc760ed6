"""`python -m scripts.make_toy_data`: see `pneumoscan.commands.toy`."""

import sys

from pneumoscan.commands.toy import main

if __name__ == "__main__":
    sys.exit(main())
