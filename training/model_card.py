"""`python -m training.model_card`: see `cxr_training.model_card`."""

import sys

from cxr_training.model_card import main

if __name__ == "__main__":
    sys.exit(main())
