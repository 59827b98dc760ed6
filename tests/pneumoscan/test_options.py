"""Options as dataclasses: what a command line gives, the way back, and choices that are the product's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest

from benchmarks.settings import RawSettings, TrainBenchmarkSettings
from cxr.model.network import ARCHITECTURES
from cxr.model.parity import ENGINES, REFERENCE
from cxr.model.spec import DECODES
from cxr_client import VIEWS
from cxr_training.data.prepare.films import FRACTIONS
from cxr_training.data.records import SPLITS
from cxr_training.data.toy.files import MAX_PATIENTS, MAX_SIZE, MIN_PATIENTS, MIN_SIZE
from cxr_training.export import WEIGHTS_FILES
from cxr_training.fit.head import BALANCES
from cxr_training.fit.tracking import TRACKERS
from cxr_training.fit.tune import PRECISIONS, TUNED
from cxr_training.fit.weights import NORMALISATIONS
from pneumoscan.commands import calibrate, drift, evaluate, export, predict, prepare, toy, train
from pneumoscan.options import Group, Option, as_argv, at_least, between, described, parse


@dataclass(frozen=True)
class Size:
    """How large."""

    workers: Annotated[int | None, Option("processes", "N", check=at_least(1))] = None


@dataclass(frozen=True, kw_only=True)
class Every:
    """An option of each kind."""

    paths: Annotated[tuple[Path, ...], Option("films", "PATH", positional=True)]
    name: Annotated[str, Option("its name", "NAME")]
    share: Annotated[float, Option("a share, 50 % by default", "SHARE", check=between(0.0, 1.0))] = 0.5
    colour: Annotated[Literal["red", "blue"], Option("of the map")] = "red"
    keep: Annotated[tuple[str, ...], Option("parts", "PART")] = ("conv1",)
    engine: Annotated[tuple[str, ...] | None, Option("an engine", repeated=True)] = None
    quiet: Annotated[bool, Option("show nothing")] = False
    detach: Annotated[bool, Option("in the background", exclusive="mode")] = False
    stop: Annotated[bool, Option("stop it", exclusive="mode")] = False
    hidden: Annotated[int | None, Option(None)] = None
    size: Annotated[Size, Group("size", "Worked out from the machine.")] = field(default_factory=Size)


LONG = ["--name", "a", "--share", "0.25", "--colour", "blue", "--keep", "x", "y", "--engine", "one", "--engine", "two"]
LONG += ["--quiet", "--detach", "--hidden", "3", "--workers", "4", "--", "/f/1.png", "/f/2.png"]


def test_every_kind_of_option_is_read_and_written_again() -> None:
    read = parse(Every, LONG, "every")
    assert read == Every(
        paths=(Path("/f/1.png"), Path("/f/2.png")),
        name="a",
        share=0.25,
        colour="blue",
        keep=("x", "y"),
        engine=("one", "two"),
        quiet=True,
        detach=True,
        hidden=3,
        size=Size(4),
    )
    assert as_argv(read) == LONG


def test_what_is_left_out_is_as_by_default_and_paths_are_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read = parse(Every, ["--name", "a", "film.png"], "every")
    assert read == Every(paths=(Path("film.png"),), name="a")
    assert as_argv(read) == ["--name", "a", "--", str(tmp_path / "film.png")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the following arguments are required: PATH, --name"),
        (["x", "--name", "a", "--share", "2"], "argument --share: 2.0 is not between 0.0 and 1.0"),
        (["x", "--name", "a", "--workers", "0"], "argument --workers: 0 is not 1 or more"),
        (["x", "--name", "a", "--workers", "many"], "argument --workers: invalid int value: 'many'"),
        (["x", "--name", "a", "--colour", "green"], "argument --colour: invalid choice: 'green'"),
        (["x", "--name", "a", "--stop", "--detach"], "not allowed with argument"),
        (["x", "--name", "a", "--qui"], "unrecognized arguments: --qui"),
    ],
)
def test_what_cannot_be_read_is_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(Every, words, "every")
    said = capsys.readouterr().err
    assert says in said
    assert said.startswith("every: ")
    assert said.count("\n") == 1


def test_help_has_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(Every, ["--help"], "every")
    text = " ".join(capsys.readouterr().out.split())
    for shown in ("An option of each kind.", "a share, 50 % by default (default: 0.5)", "parts (default: conv1)"):
        assert shown in text
    assert "show nothing (default" not in text
    assert "hidden" not in text
    assert "Worked out from the machine." in text


def _choices(options: type[Any], name: str) -> tuple[str, ...]:
    kind = next(one.kind for one in described(options) if one.field.name == name)
    return get_args(get_args(kind)[0] if get_origin(kind) is tuple else kind)


@pytest.mark.parametrize(
    ("options", "name", "known"),
    [
        (train.Options, "arch", ARCHITECTURES),
        (RawSettings, "arch", ARCHITECTURES),
        (TrainBenchmarkSettings, "normalisation", NORMALISATIONS),
        (train.Options, "normalisation", NORMALISATIONS),
        (train.Options, "decode", DECODES),
        (train.Options, "trainable", ["head", *TUNED]),
        (train.Options, "balance", BALANCES),
        (train.Options, "log", TRACKERS),
        (train.Options, "precision", ["auto", *PRECISIONS]),
        (export.Options, "format", WEIGHTS_FILES),
        (export.Options, "cpu_engine", [name for name, kind in ENGINES.items() if "cpu" in kind.devices]),
        (export.Options, "cuda_engine", [name for name, kind in ENGINES.items() if "cuda" in kind.devices]),
        (calibrate.Options, "engine", [name for name in ENGINES if name != REFERENCE]),
        (evaluate.Options, "split", SPLITS),
        (drift.Options, "split", SPLITS),
        (predict.Options, "view", VIEWS),
    ],
)
def test_choices_are_those_the_product_knows(options: type[Any], name: str, known: list[str]) -> None:
    assert set(_choices(options, name)) == set(known)


def test_numbers_in_the_help_are_the_products() -> None:
    texts = {one.field.name: str(one.option.help) for one in described(toy.Options)}
    assert texts["patients"].startswith(f"{MIN_PATIENTS} to {MAX_PATIENTS},")
    assert texts["size"] == f"long side, {MIN_SIZE} to {MAX_SIZE}"
    assert prepare.Options(out=Path("out")).fractions == FRACTIONS
