"""JSON files as frozen dataclasses: what one command writes and another reads.

The fields of a record are the keys of its file, in the file's order, and the annotations are what the reader checks, so
that a damaged file or one of another version is refused here, by the key that does not fit, and nowhere else. A field
that Python reserves has an underscore behind its name (``with_``), which the file has not.

A file that is written carries the SHA-256 of its values, so that one that was edited by hand or damaged where it still
reads well is refused too; one without, of an earlier version, is read as it is.

Written by hand because workers read such files too and an archive brings no packages of its own: msgspec or cattrs
would be one more to install on every server, for the reading of five files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from cxr.errors import ModelError

SEAL: Final = "content_sha256"
T = TypeVar("T")
_KINDS: Final = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


class FieldError(ValueError):
    """A JSON value that is not what its record's annotation says; the message starts with the key."""


def parse(text: str | bytes) -> object:
    """The values of a JSON text without their digest; NaN and infinities, which JSON has not, are refused.

    Raises
    ------
    FieldError
        If it is no JSON, or has other values than it was written with.
    """
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise FieldError("no JSON of ours: values inside values without end") from error
    except ValueError as error:
        raise FieldError(f"no JSON: {error}") from error
    if isinstance(values, dict) and SEAL in values and values.pop(SEAL) != _digest(values):
        raise FieldError(f"it was changed after it was written, {SEAL} is of other values")
    return values


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a file with their digest among them."""
    return {**values, SEAL: _digest(values)}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read(kind: type[T], value: object, *, ignore_unknown: bool = False) -> T:
    """A record from JSON values.

    Parameters
    ----------
    kind
        A dataclass whose fields are texts, numbers, tuples, dicts by text, other such dataclasses, or unions of these.
        Of a union of dataclasses it is the first whose keys are all there.
    ignore_unknown
        Pass over keys that are no field, here and further in.

    Raises
    ------
    FieldError
        Naming the key that is missing, unknown or of another type.
    """
    return _Reader(ignore_unknown).record(kind, value, "")


def read_file(path: Path, kind: type[T], command: str) -> T:
    """A record from a file, whatever other keys the file has.

    Parameters
    ----------
    command
        Makes the file, for the message.

    Raises
    ------
    ModelError
        Naming the file, the key that does not fit, and the command to run again.
    """
    try:
        return read(kind, parse(path.read_bytes()), ignore_unknown=True)
    except FieldError as error:
        raise ModelError(f"{path} is damaged or of another version ({error}): run {command} again") from error


def read_text(text: str | bytes, kind: type[T], claim: str) -> T:
    """A record from a text that holds it and nothing else: a key that is not known is refused too.

    Parameters
    ----------
    claim
        The text is not that, where it does not fit: ``model.json is not a model spec of this version``.

    Raises
    ------
    ModelError
        With the claim, and the key that does not fit.
    """
    try:
        return read(kind, parse(text))
    except FieldError as error:
        raise ModelError(f"{claim}: {error}") from error


def to_json(record: Any) -> str:
    """The text of a record's file: keys in the order of the fields and the digest, indented by two."""
    return json.dumps(sealed(_values(record)), indent=2, allow_nan=False) + "\n"


def _values(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {_key(field): _values(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {name: _values(one) for name, one in value.items()}
    return [_values(one) for one in value] if isinstance(value, (list, tuple)) else value


def _key(field: dataclasses.Field[Any]) -> str:
    return field.name.rstrip("_")


def _required(kind: type) -> set[str]:
    missing = dataclasses.MISSING
    return {_key(one) for one in dataclasses.fields(kind) if one.default is missing and one.default_factory is missing}


_hints = cache(get_type_hints)


@dataclasses.dataclass(frozen=True, slots=True)
class _Reader:
    ignore_unknown: bool

    def record(self, kind: type[T], value: object, place: str) -> T:
        if not isinstance(value, dict):
            raise _misfit(place, "an object", value)
        assert dataclasses.is_dataclass(kind), kind
        fields = {_key(one): one.name for one in dataclasses.fields(kind)}
        unknown = [] if self.ignore_unknown else sorted(value.keys() - fields.keys())
        for wrong, keys in (("missing", sorted(_required(kind) - value.keys())), ("unknown", unknown)):
            if keys:
                raise FieldError(f"{_inside(place, keys[0])} is {wrong}")
        hints = _hints(kind)
        given = {
            name: self.value(hints[name], value[key], _inside(place, key))
            for key, name in fields.items()
            if key in value
        }
        return kind(**given)

    def value(self, hint: Any, value: Any, place: str) -> Any:
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            return self._union(get_args(hint), value, place)
        if dataclasses.is_dataclass(hint):
            return self.record(hint, value, place)  # type: ignore[arg-type]
        if origin is tuple:
            return self._tuple(get_args(hint), value, place)
        if origin is not None and issubclass(origin, Mapping):
            if not isinstance(value, dict):
                raise _misfit(place, "an object", value)
            return {name: self.value(get_args(hint)[1], one, _inside(place, name)) for name, one in value.items()}
        allowed = (int, float) if hint is float else hint
        if hint is not Any and (not isinstance(value, allowed) or isinstance(value, bool) != (hint is bool)):
            raise _misfit(place, _KINDS[hint], value)
        return value

    def _union(self, hints: tuple[Any, ...], value: Any, place: str) -> Any:
        if value is None and type(None) in hints:
            return None
        others = [one for one in hints if one is not type(None)]
        if isinstance(value, dict):  # of records the first that has all it needs; the last says what is missing
            others.sort(key=lambda one: dataclasses.is_dataclass(one) and not _required(one) <= value.keys())  # type: ignore[arg-type]
        return self.value(others[0], value, place)

    def _tuple(self, hints: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _misfit(place, "a list", value)
        if hints[-1] is Ellipsis:
            hints = (hints[0],) * len(value)
        if len(value) != len(hints):
            raise FieldError(f"{place} has {len(value)} values: {len(hints)} are needed")
        return tuple(
            self.value(one, part, f"{place}[{i}]") for i, (one, part) in enumerate(zip(hints, value, strict=True))
        )


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _misfit(place: str, needed: str, value: object) -> FieldError:
    shown = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else json.dumps(value)
    return FieldError(f"{place or 'the file'} is {shown}: {needed} is needed")
