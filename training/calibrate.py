"""`python -m training.calibrate`: see `cxr_training.calibrate`."""

import sys

from cxr_training.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
