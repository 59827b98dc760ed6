"""`python -m training.train`: see `cxr_training.train`."""

import sys

from cxr_training.train import main

if __name__ == "__main__":
    sys.exit(main())
