"""MLflow, imported in this one place, for trainings that are shown and archives that are kept."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

_SILENCE: Final = {
    # From 3.2 on, MLflow tells its makers of each use, with an installation id that it keeps in HOME.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


def import_mlflow() -> ModuleType:
    """MLflow; it talks to the server that it is given and to nobody else.

    Raises
    ------
    ImportError
        It is not installed.
    """
    os.environ.update(_SILENCE)
    import mlflow

    return mlflow
