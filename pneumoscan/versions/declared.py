"""The versions that a model store's servers serve, and which is the default: ``versions.json`` in the store.

Without that file all archives are served and the newest is the default. `pneumoscan models` writes it, and
`pneumoscan serve` applies it at every start.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pneumoscan import files
from pneumoscan.errors import StoreError, VersionError
from pneumoscan.model_store import (
    MODEL_NAME,
    Archive,
    Version,
    archive_digest,
    archive_name,
    check_archive,
    list_archives,
)
from pneumoscan.signatures import Trust

FILE_NAME: Final = "versions.json"
_LOCK_NAME: Final = ".versions.lock"
_FORMAT: Final = 1
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True)
class Verified:
    """What `pneumoscan models verify` found when it compared a version with the default one.

    Parameters
    ----------
    decided
        The films were enough for the verdict in `passed`.
    flips_high, shift_high
        Upper 95 % bounds of the share of flips and of the mean shift; None in what an older pneumoscan found, which
        knew no interval.
    """

    against: str
    against_sha256: str
    films: int
    flips: int
    mean_shift: float
    max_shift: float
    errors: int
    passed: bool
    at: str
    decided: bool = True
    flips_high: float | None = None
    shift_high: float | None = None

    def outweighs(self, other: Verified | None) -> bool:
        """Whether this stands in place of another: fewer films do not, unless they show a fault that was missed."""
        if other is None or (other.against, other.against_sha256) != (self.against, self.against_sha256):
            return True
        if self.decided != other.decided:
            return self.decided
        return self.films >= other.films or (self.decided and other.passed and not self.passed)


@dataclass(frozen=True)
class Registered:
    """One declared version: the archive it is, when it came, what its verification found."""

    sha256: str
    at: str
    verified: Verified | None = None


@dataclass(frozen=True)
class Declared:
    """The declared state of a store.

    Parameters
    ----------
    default
        The version that a request without a version gets.
    previous
        Earlier defaults that are still registered, the latest last: where a rollback goes to.
    versions
        All of them, the default among them.
    """

    default: str
    previous: tuple[str, ...]
    versions: dict[str, Registered]

    @classmethod
    def first(cls, default: str, digests: dict[str, str]) -> Declared:
        """The state of a server that was started without a file."""
        return cls(default, (), {version: Registered(sha256, now()) for version, sha256 in digests.items()})

    def registered(self, version: str, sha256: str) -> Declared:
        """The state with one more version, or another archive of one; nothing is known about it."""
        return replace(self, versions={**self.versions, version: Registered(sha256, now())})

    def verified(self, version: str, verified: Verified) -> Declared:
        """The state with what a comparison found about a version, unless what is known outweighs it."""
        if not verified.outweighs(self.versions[version].verified):
            return self
        return replace(self, versions={**self.versions, version: replace(self.versions[version], verified=verified)})

    def promoted(self, version: str) -> Declared:
        """The state with another default; the old one is where a rollback goes to."""
        previous = tuple(each for each in self.previous if each != version)
        return replace(self, default=version, previous=(*previous, self.default))

    def rolled_back(self) -> Declared:
        """The state with the previous default, which a second rollback goes behind."""
        return replace(self, default=self.previous[-1], previous=self.previous[:-1])

    def retired(self, version: str) -> Declared:
        """The state without a version."""
        previous = tuple(each for each in self.previous if each != version)
        versions = {each: found for each, found in self.versions.items() if each != version}
        return replace(self, previous=previous, versions=versions)

    def why_unverified(self, version: str) -> str | None:
        """Why a version may not become the default yet; None once it was compared and found good enough."""
        found, default = self.versions[version].verified, self.default
        if found is None:
            return f"was not verified against {default}"
        if (found.against, found.against_sha256) != (default, self.versions[default].sha256):
            return f"was verified against {found.against} and not against {default}"
        if found.flips_high is None:
            return (
                f"was verified against {default} by an older pneumoscan, which did not ask whether its films are enough"
            )
        if found.passed:
            return None
        if not found.decided:
            return (
                f"was verified against {default} on too few films ({found.films}): up to {found.flips_high:.1%} of all "
                f"labels may flip, and the mean shift may be {found.shift_high:.3g}"
            )
        return (
            f"did not pass its verification against {default} ({found.flips} of {found.films} labels flipped, mean "
            f"shift {found.mean_shift:.3g}, {found.errors} errors)"
        )

    def in_order(self) -> list[str]:
        """The versions, the default first and then from the newest to the oldest."""
        newest = sorted(self.versions, key=lambda text: Version(text), reverse=True)
        return sorted(newest, key=lambda text: text != self.default)

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": _FORMAT, "model": MODEL_NAME, **asdict(self)}, indent=2) + "\n"


def now() -> str:
    """The time as it stands in the file: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_exactly() -> str:
    """The time to the microsecond, where it is a name as well."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_declared(store: Path) -> Declared | None:
    """The declared state of a store, or None where it has none.

    Raises
    ------
    StoreError
        There is a file and it is not one of ours.
    """
    path = store / FILE_NAME
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}: {error}): put a copy of it back, or move it away; without "
            "it all archives are served and the newest is the default"
        ) from error


def write_declared(store: Path, declared: Declared | None) -> None:
    """Write the declared state, whole or not at all; None takes the file away. Only while the store is `locked`.

    Raises
    ------
    StoreError
        The store cannot be written.
    """
    path = store / FILE_NAME
    try:
        if declared is None:
            path.unlink(missing_ok=True)
        else:
            files.write_text(path, declared.to_json(), durable=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}): make {store} writable") from error


@contextmanager
def locked(store: Path, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Hold the store against another change of its versions; reading needs no lock.

    Parameters
    ----------
    patience_s
        How long to wait for another one: a server that follows what is declared needs it for a moment.

    Raises
    ------
    StoreError
        Another process holds it, or it cannot be written.
    """
    busy = StoreError(f"another pneumoscan models changes the versions of {store}: wait until it is done")
    deadline = time.monotonic() + patience_s
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(files.locked(store / _LOCK_NAME))
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise busy from None
                time.sleep(0.1)
            except OSError as error:
                raise StoreError(
                    f"{store} cannot be written ({error.strerror}): its versions cannot be changed"
                ) from error
        yield


def find_archive(store: Path, version: str) -> Archive:
    """The archive of a version in a store.

    Raises
    ------
    StoreError, VersionError
        There is none.
    """
    archives, _ = list_archives(store)
    for archive in archives:
        if archive.version.text == version:
            return archive
    there = ", ".join(archive.version.text for archive in archives)
    raise VersionError(f"no archive of {version} in {store} (there: {there}): pack it with pneumoscan pack")


def registered_archive(store: Path, version: str, registered: Registered) -> Archive:
    """The archive of a registered version, after its bytes on the disk were found to be the registered ones.

    Raises
    ------
    StoreError, VersionError
        It is gone, cannot be read, or is another one.
    """
    archive = find_archive(store, version)
    if (digest := archive_digest(archive)) != registered.sha256:
        raise VersionError(
            f"{archive.path} is not the archive that was registered (sha256 {digest[:12]}…, registered "
            f"{registered.sha256[:12]}…): put that one back, or retire {version}, pack this one under another version "
            "and register it"
        )
    return archive


def _parsed(value: dict[str, Any]) -> Declared:
    if value["format"] != _FORMAT or value["model"] != MODEL_NAME:
        raise ValueError(f"format {value['format']!r} of model {value['model']!r}, not {_FORMAT} of {MODEL_NAME!r}")
    versions: dict[str, Registered] = {}
    for text, entry in value["versions"].items():
        if Version.parse(text) is None:
            raise ValueError(f"{text!r} is no version")
        verified = None if entry["verified"] is None else Verified(**entry["verified"])
        versions[text] = Registered(str(entry["sha256"]), str(entry["at"]), verified)
    previous = tuple(value["previous"])
    if missing := {value["default"], *previous} - set(versions):
        raise ValueError(f"{', '.join(map(str, missing))} is named, but not among the versions")
    return Declared(value["default"], previous, versions)


@dataclass(frozen=True)
class ServingSet:
    """What a server starts with.

    Parameters
    ----------
    archives
        The default version's first.
    digests
        SHA-256 of each archive by version.
    remarks
        What else lies in the store, a line for each.
    signers
        Who signed each archive, by version; empty where nobody is asked to.
    """

    archives: tuple[Archive, ...]
    digests: dict[str, str]
    remarks: tuple[str, ...]
    signers: dict[str, str]


def serving_set(store: Path, trust: Trust | None = None) -> ServingSet:
    """The archives that a store's server starts with.

    Parameters
    ----------
    trust
        Who has to have signed each of them.

    Raises
    ------
    ArchiveRefused
        One is not signed by who is trusted, or may not be unpacked.
    StoreError
        There is none, or one of them is damaged or is not the one that was registered.
    """
    found, ignored = list_archives(store)
    remarks = [f"{store / name} is not named {MODEL_NAME}-<version>.mar" for name in ignored]
    declared = read_declared(store)
    if declared is None:
        archives = found
    else:
        by_version = {archive.version.text: archive for archive in found}
        if missing := [version for version in declared.in_order() if version not in by_version]:
            raise StoreError(
                f"{store / FILE_NAME} declares {missing[0]}, but {archive_name(missing[0])} is not there: "
                f"put it back, or run pneumoscan models retire {missing[0]}"
            )
        archives = [by_version[version] for version in declared.in_order()]
        remarks += [
            f"{archive.path} is not registered: run pneumoscan models register {version}"
            for version, archive in by_version.items()
            if version not in declared.versions
        ]
    digests, signers = {}, {}
    for archive in archives:
        if trust is not None:
            signers[archive.version.text] = trust.check(archive)
        check_archive(archive)
        digests[archive.version.text] = digest = archive_digest(archive)
        if declared is not None and digest != (expected := declared.versions[archive.version.text].sha256):
            raise StoreError(
                f"{archive.path} is not the archive that was registered (sha256 {digest[:12]}…, registered "
                f"{expected[:12]}…): put that one back, or pack this one under another version and register it"
            )
    return ServingSet(tuple(archives), digests, tuple(remarks), signers)
