"""What the command lines of this package share: one line for what is wrong, and the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from cxr.errors import CxrError


def run_command(
    parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None], argv: Sequence[str] | None
) -> int:
    """Parse the arguments and run the command: 0 done, 2 told in one line on stderr why not."""
    arguments = parser.parse_args(argv)
    try:
        command(arguments)
    except (CxrError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
