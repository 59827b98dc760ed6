"""Settings of the page from environment variables: every one of them, what it may be and what it is without one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

PREFIX = "PNEUMOSCAN_"
_ENGINES = {"sqlite": "django.db.backends.sqlite3", "postgresql": "django.db.backends.postgresql"}
_YES_NO = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False}
_SHORTEST_SECRET = 50  # what Django's own deployment check asks for


@dataclass(frozen=True)
class Environment:
    """Reads ``PNEUMOSCAN_<name>``, or the file that ``PNEUMOSCAN_<name>_FILE`` names: so containers get secrets."""

    variables: Mapping[str, str]

    def text(self, name: str, default: str = "") -> str:
        """A text; the default where the variable is missing or empty."""
        file = self.variables.get(f"{PREFIX}{name}_FILE")
        if file:
            try:
                return Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ImproperlyConfigured(f"{PREFIX}{name}_FILE is {file}: {error.strerror}. Name a file.") from error
        return self.variables.get(f"{PREFIX}{name}", "").strip() or default

    def texts(self, name: str, default: str = "") -> list[str]:
        """Texts between commas."""
        return [text.strip() for text in self.text(name, default).split(",") if text.strip()]

    def flag(self, name: str, default: bool) -> bool:
        """Yes or no."""
        given = self.text(name, "yes" if default else "no").lower()
        if given not in _YES_NO:
            raise ImproperlyConfigured(f"{PREFIX}{name} is {given!r}: give one of {', '.join(_YES_NO)}.")
        return _YES_NO[given]

    def number(self, name: str, default: float) -> float:
        """A number above 0."""
        given = self.text(name, str(default))
        try:
            value = float(given)
        except ValueError:
            value = -1.0
        if not 0 < value < float("inf"):
            raise ImproperlyConfigured(f"{PREFIX}{name} is {given!r}: give a number above 0.")
        return value

    def key(self) -> str:
        """The key that the inference server's edge asks for, empty for none."""
        key = self.text("KEY")
        if not all("!" <= character <= "~" for character in key):
            # Without the value: it is a secret.
            raise ImproperlyConfigured(
                f"{PREFIX}KEY has a space, a line break or a letter that is not ASCII. Give one line of ASCII."
            )
        return key

    def secret(self) -> str:
        """The key that signs sessions and CSRF tokens. There is no default: one that is in the source is no secret."""
        key = self.text("SECRET_KEY")
        if len(key) < _SHORTEST_SECRET:
            raise ImproperlyConfigured(
                f"{PREFIX}SECRET_KEY has {len(key)} characters, at least {_SHORTEST_SECRET} are needed. "
                "Make one: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )
        return key


def database(url: str) -> dict[str, Any]:
    """Django's setting for the database at a URL: ``sqlite:///folder/file.db`` or ``postgresql://user:word@host/name``.

    Raises
    ------
    ImproperlyConfigured
        If it is neither.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.query:
        # Without the value: it may hold a password.
        raise ImproperlyConfigured(
            f"{PREFIX}HISTORY has options behind a question mark, which are not read. Set them in the database's own "
            "way, PGSSLMODE=require for one."
        )
    if parts.scheme == "sqlite" and parts.path.strip("/"):
        # As others read such URLs: three slashes for a relative path, four for an absolute one.
        return {"ENGINE": _ENGINES["sqlite"], "NAME": unquote(parts.path[1:])}
    if parts.scheme == "postgresql" and parts.path.strip("/"):
        return {
            "ENGINE": _ENGINES["postgresql"],
            "NAME": unquote(parts.path[1:]),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": str(port or ""),
            "CONN_MAX_AGE": 60,
        }
    # Without the value: it may hold a password.
    raise ImproperlyConfigured(
        f"{PREFIX}HISTORY is no address of a history: give sqlite:///folder/history.db or postgresql://user@host/name."
    )


def version_of(*folders: Path) -> str:
    """A name that changes with any file below some folders: with it in their address, files can be kept for ever."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
