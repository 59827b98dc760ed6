"""`python -m training.drift`: see `cxr_training.drift`."""

import sys

from cxr_training.drift import main

if __name__ == "__main__":
    sys.exit(main())
