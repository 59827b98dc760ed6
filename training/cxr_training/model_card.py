"""Write the model card of a run in words: what the model is, what it is for, what it was made from, how well it did.

Reads model.json, and metrics.json and audit.json where they are of the same weights; what was not measured is said,
with the command that measures it. Leaves model-card.md and model-card.html (one file that opens anywhere), without
films and without a date: the same run gives the same bytes.

References
----------
Mitchell et al. (2019): Model Cards for Model Reporting. FAT* 2019:220-229, whose sections these are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cxr import NOTICE
from cxr_training.command import run_command
from cxr_training.errors import TrainingError
from cxr_training.pages.card_facts import COMMANDS, Facts
from cxr_training.pages.card_model import decisions, details, training_data, use
from cxr_training.pages.card_results import (
    at_the_lungs,
    caveats,
    ethics,
    evaluation_data,
    factors,
    results,
    right_place,
)
from cxr_training.pages.page import Block, Heading, Strong, Text, text, to_html, to_markdown
from cxr_training.pages.report import SYNTHETIC, origin_of
from cxr_training.runs import CARD_FILES
from pneumoscan.files import write_text

SECTIONS: Final[dict[str, Callable[[Facts], list[Block]]]] = {
    "Model details": details,
    "Intended use": use,
    "Factors": factors,
    "Metrics and decisions": decisions,
    "Evaluation data": evaluation_data,
    "Training data": training_data,
    "Quantitative analyses": results,
    "Does it look at the right place?": right_place,
    "Does it look at the lungs at all?": at_the_lungs,
    "Ethical considerations": ethics,
    "Caveats and recommendations": caveats,
}


def card_page(facts: Facts) -> list[Block]:
    """The card's page.

    Raises
    ------
    TrainingError
        If figures are not as this version's `training.evaluate` and `training.audit` make them.
    """
    page: list[Block] = [Heading(f"Model card: {facts.spec.arch}", 1), text(Strong(NOTICE)), *_warnings(facts)]
    for title, blocks in SECTIONS.items():
        try:
            page += [Heading(title), *blocks(facts)]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise TrainingError(
                f"the run's figures are not of this version ({type(error).__name__}: {error}, in {title!r}): run "
                "training.export, training.evaluate and training.audit again"
            ) from error
    return page


def _warnings(facts: Facts) -> list[Block]:
    """What must not be overlooked: films that are made up, weights that know nothing."""
    data = facts.spec.training.get("data") or ()
    trained = bool(data) and all(one["source"] == "synthetic" for one in data)
    measured = None if facts.metrics is None else bool(facts.metrics["synthetic"])
    said: list[Block] = []
    if trained and measured is not False:
        said.append(Text(SYNTHETIC))
    elif trained:
        said.append(text(Strong("Every film it was trained on is synthetic.")))
    elif measured:
        said.append(
            text(Strong("Every film it was measured on is synthetic."), " The figures say nothing of patients.")
        )
    if facts.spec.pretrained == "random":
        said.append(Text(origin_of(facts.spec)))
    return said


def write_card(run: Path, out: Path) -> Facts:
    """Write the card of a run to `out`, a ``.md`` file, and as HTML beside it.

    Raises
    ------
    ModelError, TrainingError
        If the run was not exported, or a file of it is damaged.
    """
    facts = Facts.of(run)
    page = card_page(facts)
    write_text(out.with_suffix(".html"), to_html(page, run))
    write_text(out, to_markdown(page))
    return facts


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
