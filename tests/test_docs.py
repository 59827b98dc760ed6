"""What the documents say exists, and what exists is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxr import NOTICE, __version__
from cxr.errors import CODES, CxrError
from cxr.serving.card import INTENDED_USE, LIMITS, OUT_OF_SCOPE
from pneumoscan import errors
from pneumoscan.cli import COMMANDS
from pneumoscan.resources import code_version
from pneumoscan.score.rows import columns
from tests.command_pages import page
from tests.cxr_training.pages.test_card import SECTIONS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as a shell would, also where these tests were started by a make themselves."""
    ours = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=ours | environment, capture_output=True, text=True, check=False)


def test_every_make_target_in_the_documents_exists() -> None:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        used = set(re.findall(r"`make ([a-z0-9-]+)|^make ([a-z0-9-]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
        assert {first or second for first, second in used} <= TARGETS, path


def test_make_alone_lists_every_target() -> None:
    listed = make().stdout
    assert all(f"make {target} " in listed for target in TARGETS)


def test_make_serve_refuses_a_pythonpath_before_it_does_anything() -> None:
    done = make("serve", PYTHONPATH="/elsewhere/handler")
    assert done.returncode == 2
    assert "PYTHONPATH is set to '/elsewhere/handler'" in done.stderr
    assert done.stdout == ""


def test_the_readme_shows_the_two_commands_and_every_command_line() -> None:
    assert "make demo" in README
    assert "make test" in README
    documents = README + "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    for name in COMMANDS:
        assert f"pneumoscan {name}" in documents, name


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    ],
)
def test_links_and_pictures_lead_somewhere(name: str) -> None:
    path = ROOT / name
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (path.parent / link).exists(), link


def test_every_error_code_is_in_the_api_description_with_its_status() -> None:
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name, code in CODES.items():
        row = next(line for line in api.splitlines() if line.startswith(f"| `{name}` |"))
        assert str(code.status) in row, name


def test_the_demo_models_card_is_one_that_this_code_writes() -> None:
    """Made by `pneumoscan card`; after a change there, write it again."""
    card = (ROOT / "docs" / "model-card.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", card, re.MULTILINE) == list(SECTIONS)
    assert f"PneumoScan `{__version__}" in card  # and the commit it was made by
    for sentence in (NOTICE, INTENDED_USE, *OUT_OF_SCOPE, *LIMITS):
        assert sentence in card
    assert "Every film is synthetic" in card
    assert "Not measured" not in card
    assert "/tmp" not in card


def test_every_setting_of_the_page_is_documented() -> None:
    settings = (ROOT / "webapp" / "cxr_webapp" / "settings.py").read_text(encoding="utf-8")
    names = set(re.findall(r'_ENVIRONMENT\.\w+\(\s*"([A-Z_]+)"', settings)) | {"SECRET_KEY"}
    page = (ROOT / "docs" / "webapp.md").read_text(encoding="utf-8")
    assert {name for name in names if f"`PNEUMOSCAN_{name}`" not in page} == set()


def test_readme_changelog_and_package_agree_on_the_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert re.fullmatch(re.escape(__version__) + r" - \d{4}-\d\d-\d\d", headings[1])
    assert f"pneumoscan-{__version__}-py3-none-any.whl" in README
    assert re.fullmatch(re.escape(__version__) + r"(\+g[0-9a-f]{12}(\.dirty)?)?", code_version())


def test_every_option_of_every_command_is_documented() -> None:
    """docs/commands.md is made by ``python -m tests.command_pages``; so is what it has to be."""
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == page(), "run python -m tests.command_pages"


def test_every_column_of_the_scored_rows_is_documented() -> None:
    """Name, type, whether it may be null and meaning, in the order of the files."""
    text = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| (yes|no) \| (.*) \|$", text, re.MULTILINE)
    assert rows == [(one.name, one.type, "yes" if one.is_nullable else "no", one.meaning) for one in columns()]


def test_the_exit_statuses_of_the_docs_are_those_of_the_errors() -> None:
    tree = str(errors.__doc__)
    for name, one in vars(errors).items():
        if isinstance(one, type) and issubclass(one, CxrError):
            assert re.search(rf"\b{name}\s+{one.exit_status}\b", tree), name


def test_help_of_a_command_needs_no_torch() -> None:
    heavy = ("torch", "sklearn", "scipy", "openvino", "django", "matplotlib")
    for name in COMMANDS:
        code = (
            f"import sys\nfrom pneumoscan import cli\ntry: cli.main(['{name}', '--help'])\nexcept SystemExit: pass\n"
            f"sys.exit(str([one for one in {heavy} if one in sys.modules]) if set({heavy}) & set(sys.modules) else 0)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)


def test_every_path_in_the_documents_exists() -> None:
    """Patterns in backticks too, such as ``docs/*.md``; what a reader's own commands make is not meant."""
    folders = "handler|pneumoscan|training|webapp|cxr_client|benchmarks|scripts|tests|deploy|docs"
    named = re.compile(rf"(?<![\w./-])(?:{folders})/[\w./*-]*\w")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "metrics.yaml", ROOT / "config.properties"]
    lost = {
        f"{page.name}: {path}"
        for page in pages
        if page.name != "CHANGELOG.md"  # it tells of files that were
        for path in named.findall(page.read_text(encoding="utf-8"))
        if not any(ROOT.glob(path))
    }
    assert not lost


def test_the_alert_on_faults_names_every_code_of_a_fault() -> None:
    """A server that is overloaded or short of memory has alerts of its own."""
    text = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    (named,) = re.findall(r'code=~"([A-Z_|]+)"', text)
    faults = {name for name, code in CODES.items() if code.status >= 500}
    assert faults - {"OVERLOADED", "OUT_OF_MEMORY"} == set(named.split("|"))
