"""What libraries say of an upload stays unsaid.

TorchServe 0.12 reads a worker's output line by line: lines go to its log files, and those that look like metrics or
process ids are believed. pydicom quotes tag values in its warnings, line breaks included, so one crafted tag could
write patient text to a log or forge a metric.
"""

from __future__ import annotations

import logging
import warnings
from typing import Final

from pydicom import config

_LIBRARIES: Final = ("pydicom", "PIL", "py.warnings")


def silence_libraries() -> None:
    """Stop warnings and library logs in this process, for good. For workers; training lets its reader see them."""
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.WARNING)  # TorchServe 0.12 logs a line for every batch
    config.settings.reading_validation_mode = config.IGNORE
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
