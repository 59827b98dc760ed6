"""`python -m training.export`: see `cxr_training.export`."""

import sys

from cxr_training.export import main

if __name__ == "__main__":
    sys.exit(main())
