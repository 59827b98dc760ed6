from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from cxr_webapp.environment import Environment, database

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def manage(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PNEUMOSCAN_", "DJANGO_"))}
    command = [sys.executable, "-m", "cxr_webapp.manage", *arguments]
    return subprocess.run(command, cwd=ROOT, env=clean | variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("history", ["", "sqlite:///history.db"])
def test_the_deployment_check_is_clean_in_production(history: str) -> None:
    done = manage(
        *("check", "--deploy", "--fail-level", "WARNING"),
        PNEUMOSCAN_SECRET_KEY=SECRET,
        PNEUMOSCAN_HOSTS="films.example",
        PNEUMOSCAN_HISTORY=history,
    )
    assert done.returncode == 0, done.stderr
    assert "no issues (0 silenced)" in done.stdout


def test_the_migrations_are_those_of_the_models(tmp_path: Path) -> None:
    history = f"sqlite:///{tmp_path}/history.db"
    done = manage("makemigrations", "--check", PNEUMOSCAN_SECRET_KEY=SECRET, PNEUMOSCAN_HISTORY=history)
    assert done.returncode == 0, done.stdout


def test_without_a_secret_nothing_starts_and_the_remedy_is_said() -> None:
    done = manage("check")
    assert done.returncode != 0
    assert "secrets.token_urlsafe" in done.stderr


def test_a_secret_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    assert Environment({"PNEUMOSCAN_SECRET_KEY_FILE": str(tmp_path / "secret")}).secret() == SECRET
    with pytest.raises(ImproperlyConfigured, match="Name a file"):
        Environment({"PNEUMOSCAN_SECRET_KEY_FILE": str(tmp_path / "none")}).secret()


def test_a_history_has_an_address_in_either_database() -> None:
    assert database("sqlite:///folder/history.db")["NAME"] == "folder/history.db"
    assert database("sqlite:////var/lib/history.db")["NAME"] == "/var/lib/history.db"
    found = database("postgresql://reader:p%40ss@db.example:5433/films")
    assert (found["USER"], found["PASSWORD"], found["HOST"], found["PORT"], found["NAME"]) == (
        *("reader", "p@ss", "db.example"),
        *("5433", "films"),
    )


@pytest.mark.parametrize(
    "url", ["mysql://a:secret@b/c", "history.db", "sqlite://", "postgresql://u:secret@host:port/x"]
)
def test_another_address_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="sqlite:///") as error:
        database(url)
    assert "secret" not in str(error.value)


def test_options_of_an_address_are_not_dropped_in_silence() -> None:
    with pytest.raises(ImproperlyConfigured, match="PGSSLMODE") as error:
        database("postgresql://u:secret@host/x?sslmode=require")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("key", ["two\nlines", "with space", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="one line of ASCII") as error:
        Environment({"PNEUMOSCAN_KEY": key}).key()
    assert key not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("HTTPS", "perhaps", "flag"),
        ("TIMEOUT", "soon", "number"),
        ("TIMEOUT", "-1", "number"),
        ("TIMEOUT", "nan", "number"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_its_name(name: str, value: str, read: str) -> None:
    environment = Environment({f"PNEUMOSCAN_{name}": value})
    with pytest.raises(ImproperlyConfigured, match=f"PNEUMOSCAN_{name} is '{value}'"):
        environment.flag(name, True) if read == "flag" else environment.number(name, 1)


def test_the_page_needs_no_torch_and_nothing_of_the_model() -> None:
    heavy = ("torch", "numpy", "ts", "cxr", "cxr_training", "pydicom")
    loaded = "import sys, cxr_webapp.wsgi, cxr_webapp.urls"
    code = f"{loaded}; sys.exit(any(name.split('.')[0] in {heavy} for name in sys.modules))"
    environment = os.environ | {"PNEUMOSCAN_SECRET_KEY": SECRET, "DJANGO_SETTINGS_MODULE": "cxr_webapp.settings"}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=False).returncode == 0
