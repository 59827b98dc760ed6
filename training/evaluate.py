"""`python -m training.evaluate`: see `cxr_training.evaluate`."""

import sys

from cxr_training.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
