"""What training cannot work with."""

from __future__ import annotations

from cxr.errors import CxrError


class TrainingError(CxrError):
    """A data folder, a run or a setting that training cannot use. Command lines end with it in one line and exit 2."""

    exit_status = 2
