"""Bundle a run's exported model with the handler into a model archive, `<store>/pneumonia-<version>.mar`.

torch-model-archiver makes the archive; its entries are then put in order and their dates taken out, so that the same
model and the same code always give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Final

from cxr.errors import ModelError
from cxr.model.parity import INT8_FILES, check_files, kind_of
from cxr.model.spec import SPEC_FILE, ModelSpec, sha256_of
from cxr.predict import Predictor
from cxr.serving.card import AUDIT_FILE, METRICS_FILE, read_audit, read_metrics
from cxr.serving.drift import DRIFT_FILE, read_reference
from cxr.serving.self_check import GOLDEN_ANSWERS, GOLDEN_FOLDER, SUMS_FILE, golden_answers, sums_text
from pneumoscan.drawn_films import golden_films
from pneumoscan.files import write_whole
from pneumoscan.model_store import MODEL_NAME, Version, archive_name
from pneumoscan.resources import package_folder, resource

_ENTRY: Final = "cxr_handler.py"
_CONFIG: Final = "model-config.yaml"
_MANIFEST: Final = "MAR-INF/MANIFEST.json"
_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the first a zip file can hold
_STORED_AS_IS: Final = (".pth", ".safetensors")  # weights do not compress; trying takes ten seconds


def package(run: Path, version: str, store: Path, *, force: bool = False) -> Path:
    """Pack the model of a run.

    Parameters
    ----------
    run
        A run folder with `model.json` and the weights it names.
    version
        Semantic version of the archive.
    store
        Folder the archive goes to; made when needed.
    force
        Replace another archive of the same version.

    Returns
    -------
    The archive's path. Where it stands already with the same bytes, it is left alone.

    Raises
    ------
    ModelError
        If the run was not exported or not calibrated, its weights are not the ones its spec names, the spec was made
        from other files than the run has now, the version is not one, or another archive has it.
    """
    if Version.parse(version) is None:
        raise ModelError(f"version {version!r} is not like 1.0.0 (Semantic Versioning): choose another --version")
    spec = _check_run(run)
    target = store / archive_name(version)
    with tempfile.TemporaryDirectory(prefix="cxr-pack-") as folder:
        packed = Path(folder) / target.name
        _rewrite(_run_archiver(Path(folder), run, spec, version), packed)
        if target.is_file() and sha256_of(target) == sha256_of(packed):
            return target
        if target.exists() and not force:
            raise ModelError(
                f"{target} exists and holds another model or other code: choose another --version, or --force"
            )
        write_whole(target, lambda draft: shutil.move(packed, draft))
    return target


def _check_run(run: Path) -> ModelSpec:
    if not run.is_dir():
        raise ModelError(f"{run} is not a folder: give the --run of pneumoscan train")
    spec = ModelSpec.load(run)
    weights = run / spec.weights_file
    if not weights.is_file():
        raise ModelError(f"{run} has no weights ({spec.weights_file} is missing): run pneumoscan export --run {run}")
    if sha256_of(weights) != spec.weights_sha256:
        raise ModelError(f"{weights} is not the file {SPEC_FILE} names: run pneumoscan export --run {run} again")
    for name, digest in spec.made_from.items():
        if (run / name).is_file() and sha256_of(run / name) != digest:
            raise ModelError(f"{run / SPEC_FILE} was made from another {name}: run pneumoscan export --run {run} again")
    if spec.indeterminate is None:
        raise ModelError(f"{run} is not calibrated: run pneumoscan calibrate --run {run}, then pneumoscan export again")
    for name in spec.engines.values():
        check_files(name, spec.parity, run)
    return spec


def _write_golden(folder: Path, run: Path) -> None:
    folder.mkdir()
    films = golden_films()
    for name, data in films.items():
        (folder / name).write_bytes(data)
    chosen = Predictor.load(run, "cpu")
    reference = Predictor(chosen.network, chosen.spec, chosen.device)
    answers = {one.engine.name: golden_answers(one, films) for one in (reference, chosen)}
    (folder / GOLDEN_ANSWERS).write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


def _run_archiver(folder: Path, run: Path, spec: ModelSpec, version: str) -> Path:
    """The archive as torch-model-archiver makes it: the handler, weights, spec, measured figures, golden films."""
    extras, out, temp = folder / "extras", folder / "out", folder / "tmp"
    # Of the installed package, so that a wheel packs the same bytes as a checkout.
    shutil.copytree(package_folder("cxr"), extras / "cxr", ignore=shutil.ignore_patterns("__pycache__", "py.typed"))
    shutil.copyfile(run / SPEC_FILE, extras / SPEC_FILE)
    _copy_measured(run, spec, extras)
    if "int8" in {kind_of(name).precision for name in spec.engines.values()}:
        for name in INT8_FILES:
            shutil.copyfile(run / name, extras / name)
    _write_golden(extras / GOLDEN_FOLDER, run)
    out.mkdir()
    temp.mkdir()
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--archive-format", "zip-store"]
    command += ["--model-name", MODEL_NAME, "--version", version, "--export-path", str(out)]
    command += ["--handler", str(resource(_ENTRY)), "--config-file", str(resource(_CONFIG))]
    command += ["--serialized-file", str(run / spec.weights_file), "--extra-files", str(extras)]
    # The archiver 0.12.0 wipes $TMPDIR/<model name>: it gets a folder of its own.
    environment = {**os.environ, "TMPDIR": str(temp)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ModelError(f"torch-model-archiver failed: {done.stderr.strip().splitlines()[-1:]}")
    return out / f"{MODEL_NAME}.mar"


def _copy_measured(run: Path, spec: ModelSpec, extras: Path) -> None:
    """Copy the figures of these weights; those of others are left out, with a note."""
    for name, read, command in (
        (METRICS_FILE, read_metrics, "pneumoscan evaluate"),
        (AUDIT_FILE, read_audit, "pneumoscan audit"),
        (DRIFT_FILE, read_reference, "pneumoscan calibrate and pneumoscan export"),
    ):
        if read(run, spec) is not None:
            shutil.copyfile(run / name, extras / name)
        elif (run / name).is_file():
            print(f"{run / name} is of another model and left out: run {command} again", file=sys.stderr)


def _rewrite(source: Path, target: Path) -> None:
    """The same archive with sorted entries, no dates, no creation time, and the digests of what is in it."""
    digests: dict[str, str] = {}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in sorted(name for name in old.namelist() if not name.endswith("/")):
            if name == _MANIFEST:
                manifest = json.loads(old.read(name))
                manifest.pop("createdOn", None)
                text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
                digests[name] = _write_entry(new, name, io.BytesIO(text.encode()))
                continue
            with old.open(name) as reader:
                digests[name] = _write_entry(new, name, reader)
        _write_entry(new, SUMS_FILE, io.BytesIO(sums_text(digests).encode()))


def _write_entry(archive: zipfile.ZipFile, name: str, reader: IO[bytes]) -> str:
    """Put one file into the archive; its SHA-256."""
    entry = zipfile.ZipInfo(name, _NO_DATE)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(_STORED_AS_IS) else zipfile.ZIP_DEFLATED
    digest = hashlib.sha256()
    with archive.open(entry, "w", force_zip64=True) as writer:
        while chunk := reader.read(1 << 20):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
