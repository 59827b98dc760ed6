"""Two recordings beside each other: how much is the same, and each difference in a line."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SUMMARY: Final = "summary.json"
ALLOWED_FILE: Final = Path(__file__).with_name("changed_on_purpose.txt")
_REASON: Final = " -- "
_NUMBER: Final = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])")
_DIGESTS: Final = ("pixels_sha256", "bytes_sha256", "body_sha256")  # of what a rounding changes
_LONGEST: Final = 160
_MISSING: Final = "nothing"


class PatternError(Exception):
    """The file of allowed differences holds a line that is no pattern with a reason."""


@dataclass(frozen=True)
class Allowed:
    """Differences that were made on purpose: those whose line this pattern is found in."""

    pattern: re.Pattern[str]
    reason: str


def read_allowed(path: Path) -> list[Allowed]:
    """The patterns of a file, each with its reason.

    Raises
    ------
    PatternError
        If a line has no reason, or its pattern is no regular expression.
    """
    allowed = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pattern, mark, reason = line.rpartition(_REASON)
        if not (mark and pattern.strip() and reason.strip()):
            raise PatternError(f"{path}, line {number}: a pattern, then '{_REASON}' and a reason are needed")
        try:
            allowed.append(Allowed(re.compile(pattern.strip()), reason.strip()))
        except re.error as error:
            raise PatternError(f"{path}, line {number}: no regular expression: {error}") from error
    return allowed


def differences(before: Any, after: Any, tolerance: float = 0.0, place: str = "") -> Iterator[tuple[str, str, str]]:
    """Where two kept values differ: the place, and what stood there before and stands there after.

    Parameters
    ----------
    tolerance
        How far two numbers may be apart, those in texts too. Above 0, digests of pictures and bodies are not compared.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            if tolerance > 0 and key in _DIGESTS:
                continue
            there = f"{place}.{key}" if place else key
            if key not in before or key not in after:
                yield there, _shown_in(before, key), _shown_in(after, key)
                continue
            yield from differences(before[key], after[key], tolerance, there)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, tolerance, f"{place}[{i}]")
    elif not _same(before, after, tolerance):
        yield place, _shown(before), _shown(after)


def _same(before: Any, after: Any, tolerance: float) -> bool:
    if type(before) is not type(after) and not (_is_number(before) and _is_number(after)):
        return False
    if before == after or tolerance <= 0:
        return bool(before == after)
    if _is_number(before):
        return bool(abs(before - after) <= tolerance)
    if isinstance(before, str) and _NUMBER.sub("#", before) == _NUMBER.sub("#", after):
        pairs = zip(_NUMBER.findall(before), _NUMBER.findall(after), strict=True)
        return all(abs(float(one) - float(other)) <= tolerance for one, other in pairs)
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown_in(values: dict[str, Any], key: str) -> str:
    return _shown(values[key]) if key in values else _MISSING


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


def read_recording(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a recording, by section (a file without its suffix) and name."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.json"))
        if path.name != SUMMARY
    }


def compare(before: Path, after: Path, tolerance: float, allowed: list[Allowed]) -> bool:
    """Print how two recordings differ.

    Returns
    -------
    Whether they are the same but for what is allowed.
    """
    first, second = read_recording(before), read_recording(after)
    used: Counter[str] = Counter()
    total = 0
    for section in sorted({*first, *second}):
        one, other = first.get(section, {}), second.get(section, {})
        same = 0
        lines = []
        for entry in sorted({*one, *other}):
            found = [*differences(_only(one, entry), _only(other, entry), tolerance)]
            same += not found
            for place, old, new in found:
                line = f"{section} | {place}: {old} -> {new}"
                reason = next((rule.reason for rule in allowed if rule.pattern.search(line)), None)
                if reason is None:
                    lines.append(line)
                else:
                    used[reason] += 1
        total += len(lines)
        print(f"{section}: {same} of {len({*one, *other})} entries identical")
        for line in lines:
            print(f"  {line}")
    for rule in allowed:
        print(f"allowed: {used[rule.reason]} differences: {rule.reason}")
    print("identical" if not total else f"{total} differences")
    return not total


def _only(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {name: entries[name]} if name in entries else {}
