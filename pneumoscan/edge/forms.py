"""Forms (multipart/form-data, RFC 7578) as the edge takes them: judged whole before TorchServe sees a byte.

TorchServe 0.12.0 answers two parts of one name as the last of them and hands no file name over, says 500 to a part
without a name and repeats what it could not read, and keeps gigabytes after a form with very many parts.
"""

from __future__ import annotations

import codecs
import mmap
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

MOST_PARTS: Final = 64
# Problems of `pneumoscan.edge.problems`, by name.
BAD_FORM: Final = "bad-form"
SEVERAL_FILMS: Final = "several-films"
REPEATED_OPTION: Final = "repeated-option"

_OPTIONS: Final = frozenset({"cam", "target", "view", "regions", "film_picture"})
_LONGEST_HEAD: Final = 8192
_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)', re.IGNORECASE)
_NAME: Final = re.compile(r';\s*name=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))', re.IGNORECASE)
_FILE_NAME: Final = re.compile(r";\s*filename\*?=", re.IGNORECASE)
_CODED_NAME: Final = re.compile(r";\s*\w+\*=([^;]*)", re.IGNORECASE)
_CODED: Final = re.compile(r"\s*([A-Za-z0-9_.:-]+)'[^']*'((?:[^%\s]|%[0-9A-Fa-f]{2})*)\s*")
_CHARSET: Final = re.compile(r';\s*charset="?([^\s;"]*)', re.IGNORECASE)


def why_not(path: Path, content_type: str) -> str | None:
    """The name of the problem with a form, or None where TorchServe can be given it.

    Parameters
    ----------
    path
        The whole body, as nginx keeps it.
    content_type
        The header of the request.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return BAD_FORM
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
            found = _BOUNDARY.search(content_type)
            heads = None if found is None or not _is_charset(content_type) else _heads(body, found[1] or found[2])
            return _judged(heads) if heads else BAD_FORM


def _heads(body: mmap.mmap, boundary: str) -> list[dict[str, str]] | None:
    """The header fields of each part, or None where the body is not made of parts (RFC 2046 section 5.1.1)."""
    mark = b"--" + boundary.encode("latin-1")
    at = 0 if body[: len(mark)] == mark else body.find(b"\r\n" + mark) + 2
    if at == 1:
        return None
    heads: list[dict[str, str]] = []
    while (after := body[at + len(mark) : at + len(mark) + 2]) != b"--":
        begin = at + len(mark) + 2
        end = body.find(b"\r\n\r\n", begin - 2, begin + _LONGEST_HEAD)
        at = body.find(b"\r\n" + mark, max(begin - 2, end)) + 2
        if after != b"\r\n" or end < 0 or at == 1 or len(heads) == MOST_PARTS:
            return None
        fields: dict[str, str] = {}
        for line in body[begin:end].decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if not colon or name.lower() in fields:
                return None
            fields[name.lower()] = value
        heads.append(fields)
    return heads


def _judged(heads: list[dict[str, str]]) -> str | None:
    names: list[str] = []
    for fields in heads:
        disposition, kind = fields.get("content-disposition", ""), fields.get("content-type", "")
        name = _NAME.search(disposition)
        if name is None or not (name[1] or name[2]) or disposition.split(";")[0].strip().lower() != "form-data":
            return BAD_FORM
        if fields.get("content-transfer-encoding", "binary").strip().lower() not in ("7bit", "8bit", "binary"):
            return BAD_FORM
        if kind.strip().lower().startswith("multipart/") or not _is_charset(kind) or "content-length" in fields:
            return BAD_FORM
        if not all(_is_coded(text) for text in _CODED_NAME.findall(disposition)):
            return BAD_FORM
        names.append(name[1] or name[2])
    repeated = {name for name in names if names.count(name) > 1}
    if repeated & _OPTIONS:
        return REPEATED_OPTION
    files = sum(bool(_FILE_NAME.search(fields["content-disposition"])) for fields in heads)
    return SEVERAL_FILMS if repeated or files > 1 else None


def _is_charset(content_type: str) -> bool:
    """Whether a content type names no charset or a known one: Java's and Python's common ones have the same names."""
    found = _CHARSET.search(content_type)
    return found is None or _is_known(found[1])


def _is_coded(text: str) -> bool:
    """Whether a value is coded as RFC 8187 says, in a charset that can hold it."""
    found = _CODED.fullmatch(text)
    if found is None or not _is_known(found[1]):
        return False
    try:
        unquote_to_bytes(found[2]).decode(found[1])
    except UnicodeDecodeError:
        return False
    return True


def _is_known(charset: str) -> bool:
    try:
        return codecs.lookup(charset).name in ("utf-8", "ascii", "iso8859-1", "cp1252", "utf-16")
    except LookupError:
        return False
