"""`python -m training.compare`: see `cxr_training.compare`."""

import sys

from cxr_training.compare import main

if __name__ == "__main__":
    sys.exit(main())
