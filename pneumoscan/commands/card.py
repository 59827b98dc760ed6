"""``pneumoscan card``: write the model card of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cxr_training.errors import TrainingError
from pneumoscan.options import Option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Write the model card of a run in words.

    What the model is, what it is for, what it was made from, how well it did; what was not measured is named, with the
    command that measures it. The same run gives the same bytes.
    """

    run: Annotated[Path, Option("a run folder that was exported", "DIR")]
    out: Annotated[Path | None, Option("where the card goes (default: into the run)", "FILE.md")] = None
    force: Annotated[bool, Option("replace the files that --out names")] = False


OPTIONS = Options


def run(options: Options) -> int:
    """Write the card, and say what was not measured."""
    from cxr_training.pages.card import COMMANDS, write_card
    from cxr_training.runs import CARD_FILES

    out = options.out or options.run / CARD_FILES[0]
    if out.suffix != ".md":
        raise TrainingError(f"--out is {out}: give the name of a .md file; the .html goes beside it")
    if options.out and not options.force:
        for path in (out, out.with_suffix(".html")):
            if path.exists():
                raise TrainingError(f"{path} exists: choose another --out, or replace it with --force")
    facts = write_card(options.run, out)
    print(f"{out} and {out.with_suffix('.html').name}: {facts.spec.arch}, weights {facts.spec.weights_sha256[:12]}…")
    for name in facts.missing:
        print(f"Not measured: {COMMANDS[name]}, then this again")
    return 0
