"""The results' columns, and from a worker's reply to a film's row.

`Row` is the one place where a column is declared: its annotation is the column's type and whether it may be null, and
the text beside it is what docs/batch.md says of it.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

from cxr import NOTICE
from cxr_client import Decision

if TYPE_CHECKING:
    import pyarrow as pa

ANSWERED: Final = "answered"
REFUSED: Final = "refused"
FAILED: Final = "failed"
# What a worker cannot say itself, by the names that `pneumoscan predict` has for the same.
NO_ANSWER: Final = "NO_ANSWER"
WORKER_LOST: Final = "WORKER_LOST"
_NAMES: Final[dict[Any, str]] = {str: "string", int: "int32", float: "double", bool: "bool"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one film."""

    file: Annotated[str, "path of the file; of a film in a ZIP the ZIP's path, `/` and the member's name"]
    outcome: Annotated[str, "`answered`, `refused` (the film cannot be scored) or `failed` (it may be another time)"]
    code: Annotated[str | None, "why it has no answer: a code of api.md, `UNREADABLE` or `NO_ANSWER`"] = None
    detail: Annotated[str | None, "the same in words: the value, the rule, the remedy"] = None
    label: Annotated[
        str | None, "`PNEUMONIA` where the probability reaches the threshold, else `NORMAL`; or a class"
    ] = None
    probability: Annotated[float | None, "of PNEUMONIA, or of the positive classes together, calibrated, 0 to 1"] = None
    threshold: Annotated[float | None, "of the model's operating point"] = None
    indeterminate: Annotated[bool | None, "the probability lies in the model's indeterminate band"] = None
    flags: Annotated[tuple[str, ...] | None, "remarks on the film that did not stop it"] = None
    format: Annotated[str | None, "`JPEG`, `PNG` or `DICOM`; `TIFF` or `JPEG2000` with `--formats`"] = None
    width: Annotated[int | None, "pixels of the film as it stands upright"] = None
    height: Annotated[int | None, "the same"] = None
    bits: Annotated[int | None, "significant bits of a stored grey value"] = None
    photometric_interpretation: Annotated[str | None, "DICOM tag (0028,0004)"] = None
    view_position: Annotated[str | None, "DICOM tag (0018,5101)"] = None
    engine: Annotated[str, "what computed the feature map"]
    version: Annotated[str, "of the archive"]
    weights_sha256: Annotated[str, "of the model's weights"]
    file_sha256: Annotated[str | None, "of the file; null where it could not be read"] = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column as a reader of the results needs it."""

    name: str
    type: str
    is_nullable: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class Scorer:
    """The model that scores, the same in every row."""

    engine: str
    version: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The handler's reply to one film, or what stands for it where there was none.

    Parameters
    ----------
    status
        The HTTP status that the server would give.
    body
        The answer, or a problem document with at least `code` and `detail`.
    file_sha256
        Digest of the file, where it could be read.
    """

    status: int
    body: Mapping[str, Any]
    file_sha256: str | None = None


def columns() -> list[Column]:
    """The columns, in their order."""
    hints = get_type_hints(Row, include_extras=True)
    found = []
    for field in fields(Row):
        hint, meaning = get_args(hints[field.name])
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        kind = parts[0]
        name = f"list<element: {_NAMES[get_args(kind)[0]]}>" if get_origin(kind) is tuple else _NAMES[kind]
        found.append(Column(field.name, name, types.NoneType in parts, meaning))
    return found


def schema() -> pa.Schema:
    """The schema of every part; its metadata carry the notice that every reply has."""
    import pyarrow as pa

    strings = pa.list_(pa.field("element", pa.string()))
    kinds = {column.name: strings if column.type.startswith("list") else column.type for column in columns()}
    return pa.schema(
        [pa.field(column.name, kinds[column.name], column.is_nullable) for column in columns()],
        metadata={"notice": NOTICE},
    )


def table(rows: Iterable[Row]) -> pa.Table:
    """Rows as a table of `schema`."""
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema())


def row_of(file: str, reply: Reply, scorer: Scorer) -> Row:
    """The row of a film from the reply to it."""
    body = reply.body
    if reply.status != 200:
        return Row(
            file=file,
            outcome=REFUSED if 400 <= reply.status < 500 else FAILED,
            code=body["code"],
            detail=body["detail"],
            **asdict(scorer),
            file_sha256=reply.file_sha256,
        )
    image, decision = body["image"], body["decision"]
    facts = ("format", "width", "height", "bits", "photometric_interpretation", "view_position")
    return Row(
        file=file,
        outcome=ANSWERED,
        label=body["label"],
        probability=Decision.of(body).probability,
        threshold=decision["threshold"],
        indeterminate=decision["indeterminate"],
        flags=tuple(image["flags"]),
        **{name: image[name] for name in facts},
        **asdict(scorer),
        file_sha256=reply.file_sha256,
    )


def shown_path(path: str | Path) -> str:
    """A path as text that any file can hold: bytes of a name that are not UTF-8 are written as ``\\xNN``."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
