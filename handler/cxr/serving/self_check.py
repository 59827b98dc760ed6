"""The check of a worker on itself before it says it is ready: the digests of its files, and films with known answers.

A file with other bytes than when the archive was packed is damaged, and so is one too many or too few.

The golden films go into the archive with the model's answers when it was packed, by the reference and by the engine
that was chosen for a CPU; each engine has a tolerance of its own, in `cxr.model.parity.ENGINES`. A worker that gets
other answers runs other weights, other code or other arithmetic than what was measured, and does not start. An engine
with passes for several sizes of batch has to give them in each, and so has an engine's second. The same passes warm
them up.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from cxr.errors import InputError, ModelError
from cxr.films.decode import decode
from cxr.films.film import Pixels
from cxr.films.sandbox import SANDBOX
from cxr.model.parity import REFERENCE, EngineKind, kind_of
from cxr.model.spec import sha256_of
from cxr.predict import Prediction, Predictor

GOLDEN_FOLDER: Final = "golden"
GOLDEN_ANSWERS: Final = "answers.json"
_DIGITS: Final = 5
_log = logging.getLogger(__name__)


def golden_answers(predictor: Predictor, films: Mapping[str, bytes]) -> dict[str, Any]:
    """The model's answers to some films, by file name, as they are written into an archive."""
    return {name: _answer_of(predictor.predict([_read(predictor, data)])[0]) for name, data in sorted(films.items())}


def check_golden(predictor: Predictor, folder: Path) -> None:
    """Score the golden films of an unpacked archive and compare.

    Raises
    ------
    ModelError
        If a film or its answer is missing or damaged, or the model says something else than when it was packed.
    """
    path = folder / GOLDEN_FOLDER / GOLDEN_ANSWERS
    try:
        packed = json.loads(path.read_text(encoding="utf-8"))
        _check_engine(predictor, packed, folder)
        if predictor.second is not None:
            by_it = Predictor(predictor.network, predictor.spec, predictor.device, predictor.second)
            _check_engine(by_it, packed, folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise ModelError(f"the golden films of the archive are damaged ({error}): pack it again") from error


def _check_engine(predictor: Predictor, packed: dict[str, Any], folder: Path) -> None:
    # An engine that was not there when the archive was packed, on a GPU say, is held to the reference.
    expected = packed.get(predictor.engine.name) or packed[REFERENCE]
    if not expected:
        raise ModelError(f"{folder / GOLDEN_FOLDER / GOLDEN_ANSWERS} names no film: pack the archive again")
    kind = kind_of(predictor.engine.name)
    films = {name: _read(predictor, (folder / GOLDEN_FOLDER / name).read_bytes()) for name in expected}
    for size in predictor.engine.sizes:
        names = cycle(films)
        for _ in range(0, len(films), size):  # full batches, until each film had its turn
            batch = list(islice(names, size))
            for name, one in zip(batch, predictor.predict([films[name] for name in batch]), strict=True):
                _compare(name, expected[name], _answer_of(one), kind, predictor.spec.cam_scale)


def _read(predictor: Predictor, data: bytes) -> Pixels:
    return decode(data, predictor.spec.preprocessing.least_side).pixels


def _answer_of(prediction: Prediction) -> dict[str, Any]:
    grid = prediction.explain("contrast").grid
    named = zip(prediction.scheme.classes, prediction.probabilities, strict=True)
    probabilities = {f"probability_{name}": round(float(value), _DIGITS) for name, value in named}
    if prediction.scheme.is_standard:
        del probabilities["probability_NORMAL"]  # what is left says the same
    return {
        **probabilities,
        "contrast": [[round(float(cell), _DIGITS) for cell in row] for row in grid],
    }


def _compare(name: str, expected: dict[str, Any], got: dict[str, Any], kind: EngineKind, cam_scale: float) -> None:
    for key in [one for one in got if one != "contrast"]:
        stated, seen = float(expected[key]), got[key]
        # Written so that a NaN, which is in no order with anything, fails.
        if not abs(stated - seen) <= kind.tolerance:
            raise ModelError(
                f"golden film {name}: P({key.partition('_')[2]}) is {seen:.5f}, when it was packed {stated:.5f}, at "
                f"most {kind.tolerance:g} apart is rounding; pack the archive again from its run"
            )
    distance = np.abs(np.asarray(expected["contrast"], dtype=float) - np.asarray(got["contrast"])).max()
    if not distance <= kind.cam_tolerance * cam_scale:
        raise ModelError(f"golden film {name}: the map is {distance:.2g} logits from the packed one; pack it again")


SUMS_FILE: Final = "SHA256SUMS"
_LINE: Final = re.compile(r"([0-9a-f]{64})  (\S.*)")


def sums_text(digests: Mapping[str, str]) -> str:
    """The content of the list: SHA-256 by file name, relative to the archive's root."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))


def check_digests(folder: Path) -> None:
    """Compare the files of an unpacked archive with the list: damage is seen, whoever packs the archive is trusted.

    Raises
    ------
    ModelError
        Naming the first file that is missing, is not on the list or has other bytes than when it was packed.
    """
    digests = _read_list(folder / SUMS_FILE)
    there = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in sorted(digests.keys() - there):
        raise ModelError(f"{name} is missing from the archive: pack it again from its run")
    for name in sorted(there - digests.keys() - {SUMS_FILE}):
        raise ModelError(f"{name} is in the archive and not in {SUMS_FILE}: pack it again from its run")
    for name, digest in digests.items():
        if sha256_of(folder / name) != digest:
            raise ModelError(f"{name} is damaged: its sha256 is not the one in {SUMS_FILE}; copy the archive again")


def _read_list(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is missing or damaged: pack the archive again from its run") from error
    found = [_LINE.fullmatch(line) for line in lines]
    if not all(found):
        raise ModelError(f"{path} is damaged: pack the archive again from its run")
    return {line[2]: line[1] for line in found if line}


def check_sandbox() -> dict[str, str]:
    """Why a wall does not stand around the decoders of this worker, by its name; the log says it too."""
    missing = SANDBOX.missing_walls()
    for wall, why in missing.items():
        _log.warning("the decoders' sandbox lacks the wall %s here: %s", wall, why)
    return missing
