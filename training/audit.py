"""`python -m training.audit`: see `cxr_training.audit`."""

import sys

from cxr_training.audit import main

if __name__ == "__main__":
    sys.exit(main())
