"""Write the model card of a run in words: what the model is, what it is for, what it was made from, how well it did.

Reads model.json, and metrics.json and audit.json where they are of the same weights; what was not measured is said,
with the command that measures it. Leaves model-card.md and model-card.html (one file that opens anywhere), without
films and without a date: the same run gives the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cxr_training.command import run_command
from cxr_training.errors import TrainingError
from cxr_training.pages.card import COMMANDS, write_card
from cxr_training.runs import CARD_FILES


def _command(arguments: argparse.Namespace) -> None:
    out: Path = arguments.out or arguments.run / CARD_FILES[0]
    if out.suffix != ".md":
        raise TrainingError(f"--out is {out}: give the name of a .md file; the .html goes beside it")
    if arguments.out and not arguments.force:
        for path in (out, out.with_suffix(".html")):
            if path.exists():
                raise TrainingError(f"{path} exists: choose another --out, or replace it with --force")
    facts = write_card(arguments.run, out)
    print(f"{out} and {out.with_suffix('.html').name}: {facts.spec.arch}, weights {facts.spec.weights_sha256[:12]}…")
    for name in facts.missing:
        print(f"Not measured: {COMMANDS[name]}, then this again")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="training.model_card", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="a run folder that was exported")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="where the card goes (default: into the run)")
    parser.add_argument("--force", action="store_true", help="replace the files that --out names")
    return run_command(parser, _command, argv)


if __name__ == "__main__":
    sys.exit(main())
