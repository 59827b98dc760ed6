"""Archives to and from an MLflow model registry, by MLflow's own client: a version's file, figures and model card.

The registry numbers what it is given by itself; which version a file is stands in the tag ``version``, and its SHA-256
in the tag ``sha256``. The declared default has the alias ``champion``, as MLflow's own documents call it.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pneumoscan.errors import RegistryError, StoreError
from pneumoscan.files import write_whole
from pneumoscan.model_store import MODEL_NAME, Archive, Version, archive_digest, archive_name, check_archive
from pneumoscan.signatures import signature_file
from pneumoscan.tracking import import_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient

_EXPERIMENT: Final = "pneumoscan-archives"
CARD_NAME: Final = "model_card.json"
CHAMPION: Final = "champion"
_NO_METRIC_NAME: Final = re.compile(r"[^A-Za-z0-9_. -]")
# A registry that is not there is reported within seconds rather than after MLflow's own seven attempts in minutes.
_PATIENCE: Final = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


def export_archive(archive: Archive, uri: str, aliases: Sequence[str] = ()) -> str:
    """Put an archive into a registry; gives the number it has there. The same bytes are put there once.

    Its figures become metrics of the run, its card the artifact ``model_card.json`` and the version's description.

    Parameters
    ----------
    uri
        Of an MLflow tracking server with a registry, ``http://host:5000``.
    aliases
        Names that this version has there from now on, and no other.

    Raises
    ------
    RegistryError
        It cannot be reached, has other bytes under this version, or did not keep those it was given.
    StoreError
        The archive is damaged.
    """
    check_archive(archive)
    digest, version = archive_digest(archive), archive.version.text
    client, failure = _client(uri)
    try:
        there = _find(client, version)
        if there is not None and there.tags.get("sha256") != digest:
            raise RegistryError(
                f"{uri} has another archive as {MODEL_NAME} {version}: pack this one under another version"
            )
        if there is not None and signature_file(archive.path).is_file():  # it may have been signed since
            client.log_artifact(there.run_id, str(signature_file(archive.path)))
        number = str(there.version) if there is not None else _put(client, archive, digest)
        for alias in aliases:
            client.set_registered_model_alias(MODEL_NAME, alias, number)
        found = _find(client, version)
        if found is None or _digest_there(client, found, archive) != digest:
            raise RegistryError(f"{uri} does not give back the bytes of {archive.path.name}: look at run {found}")
        if missing := [alias for alias in aliases if number != _holder(client, alias)]:
            raise RegistryError(f"{uri} did not give {version} the alias {missing[0]}")
    except failure as error:
        raise RegistryError(f"{uri}: {_first_line(error)}") from error
    return number


def _put(client: MlflowClient, archive: Archive, digest: str) -> str:
    version, card = archive.version.text, _card(archive)
    run = client.create_run(_experiment(client), run_name=f"{MODEL_NAME} {version}").info.run_id
    client.log_artifact(run, str(archive.path))
    if signature_file(archive.path).is_file():
        client.log_artifact(run, str(signature_file(archive.path)))
    if card is not None:
        client.log_dict(run, card, CARD_NAME)
        for name, value in figures_of(card["evaluation"]):
            client.log_metric(run, name, value)
    client.set_terminated(run)
    if not client.search_registered_models(f"name='{MODEL_NAME}'"):
        client.create_registered_model(MODEL_NAME)
    tags = {"version": version, "sha256": digest}
    if card is not None:
        tags |= {"weights_sha256": card["model"]["weights_sha256"], "arch": card["model"]["arch"]}
    return str(
        client.create_model_version(
            MODEL_NAME,
            f"runs:/{run}/{archive.path.name}",
            run_id=run,
            tags=tags,
            description=None if card is None else description(card),
        ).version
    )


def _digest_there(client: MlflowClient, entry: Any, archive: Archive) -> str:
    with tempfile.TemporaryDirectory(prefix="pneumoscan-") as folder:
        got = Path(client.download_artifacts(entry.run_id, archive.path.name, folder))
        return archive_digest(Archive(got, archive.version))


def _holder(client: MlflowClient, alias: str) -> str:
    return str(client.get_model_version_by_alias(MODEL_NAME, alias).version)


def _card(archive: Archive) -> dict[str, Any] | None:
    """The card that a server of the archive gives; None where no model is in it.

    Raises
    ------
    StoreError
        Its files cannot be read.
    """
    from cxr.errors import ModelError
    from cxr.model.spec import ModelSpec
    from cxr.serving.card import AUDIT_FILE, METRICS_FILE, model_card, read_audit, read_metrics
    from cxr.serving.reply import ModelIdentity

    wanted = ("model.json", METRICS_FILE, AUDIT_FILE)
    with tempfile.TemporaryDirectory(prefix="pneumoscan-") as name, zipfile.ZipFile(archive.path) as mar:
        folder = Path(name)
        for each in {*wanted} & {*mar.namelist()}:
            (folder / each).write_bytes(mar.read(each))
        if not (folder / wanted[0]).exists():
            return None
        try:
            spec = ModelSpec.from_json((folder / wanted[0]).read_bytes())
            identity = asdict(ModelIdentity.of(spec, MODEL_NAME, archive.version.text))
            return model_card(spec, identity, read_metrics(folder, spec), read_audit(folder, spec))
        except ModelError as error:
            raise StoreError(f"{archive.path}: {error}") from error


def figures_of(evaluation: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Every number of what was measured, by its keys with slashes between; lists, such as curves, are left out."""
    for key, value in evaluation.items():
        name = before + _NO_METRIC_NAME.sub("_", str(key))
        if isinstance(value, dict):
            yield from figures_of(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def description(card: Mapping[str, Any]) -> str:
    """The model card for people who look at the registry, in Markdown."""
    lists = {"Not for": card["out_of_scope"], "Limits": card["limits"], "Shortcuts": card["shortcuts"]}
    lines = [card["intended_use"], "", card["notice"], ""]
    for title, entries in lists.items():
        lines += [f"**{title}**", "", *(f"- {entry}" for entry in entries), ""] if entries else []
    point = card["calibration"]
    lines.append(f"Decides at {point['operating_point']}. Views: {card['views']}. The whole card: {CARD_NAME}.")
    return "\n".join(lines)


def import_archive(version: str, store: Path, uri: str, *, force: bool = False) -> Path:
    """Put a version of a registry into a store, after its digest was found right; gives the archive's path.

    Raises
    ------
    RegistryError
        The registry cannot be reached, does not have it, or its file has other bytes than when it was put there.
    StoreError
        The archive is damaged, or the store has another one of this version and `force` is not given.
    """
    client, failure = _client(uri)
    store.mkdir(parents=True, exist_ok=True)
    target = Archive(store / archive_name(version), Version(version))
    # In the store, so that the last step is a rename; the name is none that a server looks for.
    with tempfile.TemporaryDirectory(prefix=".import-", dir=store) as folder:
        try:
            there = _find(client, version)
            if there is None or there.run_id is None:
                raise RegistryError(f"{uri} has no {MODEL_NAME} {version} that pneumoscan models export put there")
            got = Path(client.download_artifacts(there.run_id, target.path.name, folder))
            signed = signature_file(target.path)
            if signed.name in {entry.path for entry in client.list_artifacts(there.run_id)}:
                client.download_artifacts(there.run_id, signed.name, folder)
        except failure as error:
            raise RegistryError(f"{uri}: {_first_line(error)}") from error
        fetched = Archive(got, target.version)
        digest = archive_digest(fetched)
        if digest != there.tags.get("sha256"):
            raise RegistryError(
                f"{uri}: the archive of {version} has other bytes than when it was exported: export it again"
            )
        check_archive(fetched)
        if target.path.exists() and archive_digest(target) != digest and not force:
            raise StoreError(f"{target.path} exists and is another archive: give --force, or move it away")
        # The signature last: until then an archive of other bytes is refused, never taken for a signed one.
        write_whole(target.path, got.replace)
        if signature_file(got).is_file():
            write_whole(signed, signature_file(got).replace)
    return target.path


def _client(uri: str) -> tuple[MlflowClient, type[Exception]]:
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        mlflow = import_mlflow()
    except ImportError as error:
        raise RegistryError("mlflow is not installed: pip install 'pneumoscan[tracking]'") from error
    failure: type[Exception] = mlflow.MlflowException
    try:
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri), failure
    except failure as error:
        raise RegistryError(f"{uri}: {_first_line(error)}") from error


def _find(client: MlflowClient, version: str) -> Any:
    """The newest entry of a version; None if there is none."""
    every = client.search_model_versions(f"name='{MODEL_NAME}'")
    found = [entry for entry in every if entry.tags.get("version") == version]
    return max(found, key=lambda entry: int(entry.version), default=None)


def _experiment(client: MlflowClient) -> str:
    found = client.get_experiment_by_name(_EXPERIMENT)
    return str(found.experiment_id if found is not None else client.create_experiment(_EXPERIMENT))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
