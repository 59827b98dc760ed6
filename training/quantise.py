"""`python -m training.quantise`: see `cxr_training.quantise`."""

import sys

from cxr_training.quantise import main

if __name__ == "__main__":
    sys.exit(main())
