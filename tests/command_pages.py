"""docs/commands.md, from the dataclasses of the options: ``python -m tests.command_pages`` writes it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from pneumoscan import errors
from pneumoscan.cli import COMMANDS
from pneumoscan.options import described

PAGE: Final = Path(__file__).parents[1] / "docs" / "commands.md"
_HEAD: Final = """# Commands

`pneumoscan COMMAND --help` says the same. `python -m pneumoscan` is the same command, and `python -m scripts.serve`,
`python -m training.train` and their siblings stay as entries:

{entries}

`eval "$(pneumoscan completion bash)"` lets a shell complete commands and options (`zsh` and `tcsh` too); `pneumoscan
--version` shows version and commit.

## Exit status

0 done, 1 failed, 2 what was asked for cannot be done, or the command line cannot be read. What each error ends with:

```
{tree}
```
"""


def page() -> str:
    """The whole page."""
    tree = str(errors.__doc__).partition("\n\n")[2].partition("\n\n")[0]
    parts = [_HEAD.format(tree=tree, entries=_entries())]
    for name, text in COMMANDS.items():
        found = import_module(f"pneumoscan.commands.{name}").OPTIONS
        parts.append(f"## pneumoscan {name}\n\n{text[:1].upper()}{text[1:]}.\n")
        if isinstance(found, dict):
            parts += [f"### pneumoscan {name} {sub}\n\n{_about(one)}\n{_options(one)}" for sub, one in found.items()]
        else:
            parts.append(f"{_about(found)}\n{_options(found)}")
    return "\n".join(parts)


def _entries() -> str:
    lines = []
    for folder in ("scripts", "training"):
        for path in sorted(PAGE.parents[1].joinpath(folder).glob("*.py")):
            text = path.read_text(encoding="utf-8").partition("\n")[0]
            if "the command `" in text:
                lines.append(f"- {text.strip(chr(34)).replace(': the command ', ' is ').rstrip('.')}")
    return "\n".join(lines)


def _about(options: type[Any]) -> str:
    lines = (line.strip() for line in str(options.__doc__).strip().splitlines())
    return "\n".join(lines) + "\n"


def _options(options: type[Any]) -> str:
    rows = ["| option | |", "| --- | --- |"]
    for one in described(options):
        metavar = one.option.metavar
        name = f"{one.flag} {metavar}" if metavar and not one.option.positional else one.flag
        default = "" if one.shown_default is None else f" (default: {one.shown_default})"
        text = f"{one.option.help}{default}" + (f"; {one.group.title}" if one.group else "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{name}`", text)) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
