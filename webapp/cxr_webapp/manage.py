"""Django's own commands for the page: ``python -m cxr_webapp.manage check --deploy``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from django.core.management import execute_from_command_line


def main() -> None:
    """Run the command line."""
    # Started as a file, Python puts this folder first: its modules would be found twice, under two names.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cxr_webapp.settings")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
