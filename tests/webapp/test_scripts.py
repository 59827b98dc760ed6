"""The page's scripts by themselves, in Node.js, and its texts: what needs no browser."""

from __future__ import annotations

import contextlib
import gettext
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from django.core.management import call_command

from tests.places import REPOSITORY
from tests.programs import NEEDS_GETTEXT, NEEDS_NODE
from tests.webapp import pages

__all__ = ["pages"]  # loads Django's settings

APP = REPOSITORY / "webapp" / "cxr_webapp"
SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.test.mjs"))


@NEEDS_NODE
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name.partition(".")[0])
def test_the_scripts_of_the_page_do_what_they_say(script: Path) -> None:
    done = subprocess.run(["node", "--test", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "# pass 0" not in done.stdout


@NEEDS_GETTEXT
@pytest.mark.parametrize("domain", ["django", "djangojs"])
def test_every_text_of_templates_and_scripts_is_in_the_german_catalogue_and_translated(
    domain: str, tmp_path: Path
) -> None:
    """The catalogues are what `makemessages` and `compilemessages` would write now."""
    shutil.copytree(APP, tmp_path / "cxr_webapp", ignore=shutil.ignore_patterns("__pycache__"))
    catalogue = tmp_path / "cxr_webapp" / "locale" / "de" / "LC_MESSAGES" / f"{domain}.po"
    before = messages(catalogue)
    with contextlib.chdir(tmp_path / "cxr_webapp"):
        call_command("makemessages", locale=["de"], domain=domain, no_obsolete=True, no_location=True, verbosity=0)
    assert messages(catalogue).keys() == before.keys()
    assert [text for text, translated in before.items() if not translated] == []
    places = [{*re.findall(r"%\(\w+\)s", text)} == {*re.findall(r"%\(\w+\)s", de)} for text, de in before.items()]
    assert all(places)
    with (APP / "locale" / "de" / "LC_MESSAGES" / f"{domain}.mo").open("rb") as compiled:
        catalog = gettext.GNUTranslations(compiled)
    for text, translated in before.items():
        if text:
            assert catalog.gettext(text) == translated or catalog.ngettext(text, text, 1) == translated


def messages(catalogue: Path) -> dict[str, str]:
    """The texts of a catalogue and the first form of each translation; what is marked as a guess counts as none."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n\n+", catalogue.read_text(encoding="utf-8")):
        joined = re.sub(r'"\n"', "", entry)
        text = re.search(r'^msgid "(.+)"$', joined, re.MULTILINE)
        if text and not re.search(r"^#~|^msgid \"\"$", joined, re.MULTILINE):
            (translated,) = re.findall(r'^msgstr(?:\[0\])? "(.*)"$', joined, re.MULTILINE)
            guessed = re.search(r"^#,.*\bfuzzy\b", joined, re.MULTILINE)
            found[plain(text[1])] = "" if guessed else plain(translated)
    return found


def plain(text: str) -> str:
    return text.replace('\\"', '"').replace("\\n", "\n")
