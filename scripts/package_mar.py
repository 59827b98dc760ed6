"""`python -m scripts.package_mar`: see `pneumoscan.archive`."""

import sys

from pneumoscan.archive import main

if __name__ == "__main__":
    sys.exit(main())
