"""Which archives of a store a server starts with, in which order, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scripts.model_store import MODEL_NAME, Archive, StoreError, archive_digest, check_archive, list_archives
from scripts.versions.declared import FILE_NAME, read_declared


@dataclass(frozen=True)
class ServingSet:
    """What a server starts with.

    Attributes
    ----------
    archives : tuple of Archive
        The default version's first.
    digests : dict of str to str
        SHA-256 of each archive by version.
    remarks : tuple of str
        What else lies in the store, a line for each.
    """

    archives: tuple[Archive, ...]
    digests: dict[str, str]
    remarks: tuple[str, ...]


def serving_set(store: Path) -> ServingSet:
    """Give the archives that a store's server starts with.

    Raises
    ------
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
                f"{store / FILE_NAME} declares {missing[0]}, but {MODEL_NAME}-{missing[0]}.mar is not there: "
                f"put it back, or run scripts.models retire {missing[0]}"
            )
        archives = [by_version[version] for version in declared.in_order()]
        remarks += [
            f"{archive.path} is not registered: run scripts.models register {version}"
            for version, archive in by_version.items()
            if version not in declared.versions
        ]
    digests = {}
    for archive in archives:
        check_archive(archive)
        digests[archive.version.text] = digest = archive_digest(archive)
        if declared is not None and digest != (expected := declared.versions[archive.version.text].sha256):
            raise StoreError(
                f"{archive.path} is not the archive that was registered (sha256 {digest[:12]}…, registered "
                f"{expected[:12]}…): put that one back, or pack this one under another version and register it"
            )
    return ServingSet(tuple(archives), digests, tuple(remarks))
