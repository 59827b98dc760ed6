"""The card of a run in words: all of it from the run's files, and what is not there is said."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxr import NOTICE
from cxr.json_records import SEAL, sealed
from cxr.model.spec import SPEC_FILE, ModelSpec
from cxr.serving.card import INTENDED_USE, LIMITS, OUT_OF_SCOPE
from cxr_training.data.records import load_films, provenance
from cxr_training.measure.records import GroupFigures
from cxr_training.pages.card import Facts, card_values
from cxr_training.pages.page import render
from cxr_training.runs import Collection
from tests.commands import run_command
from tests.cxr.networks import save_model
from tests.cxr_training.marked_films import corner_mark, write_films
from tests.cxr_training.pages.test_page import Reader
from tests.films import Grey

ARGUMENTS = ["--weights", "random", "--arch", "resnet10", "--size", "64", "--epochs", "20", "--views", "0"]
SECTIONS = (
    "Model details",
    "Intended use",
    "Factors",
    "Metrics and decisions",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Does it look at the right place?",
    "Does it look at the lungs at all?",
    "Ethical considerations",
    "Caveats and recommendations",
)
# Numbers of the method and not of the run: levels, bins, cells, shares, the fewest patients, grey values in 0-1.
METHOD = {"95", "15", "5", "10", "32", "64", "0", "1"}


pytestmark = pytest.mark.usefixtures("one_thread")


def often_marked(pixels: Grey, label: str, source: str) -> Grey:
    """Most films of PNEUMONIA have a mark in the corner, so that a model errs on some."""
    return corner_mark(pixels, label, source) if pixels.sum() % 3 else pixels


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went all the way, on films with boxes."""
    folder = tmp_path_factory.mktemp("card")
    data = write_films(folder / "data", often_marked)
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with (data / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "licence", "boxes"])
        writer.writeheader()
        for row in rows:
            terms = {"one": "CC BY-NC-SA 4.0", "two": ""}[row["source"]]
            writer.writerow({**row, "licence": terms, "boxes": "8 8 20 20" if row["label"] == "PNEUMONIA" else ""})
    run = folder / "runs" / "first"
    common = ["--data", str(data), "--run", str(run)]
    assert run_command("train", [*common, *ARGUMENTS]) == 0
    assert run_command("calibrate", common) == 0
    assert run_command("export", ["--run", str(run)]) == 0
    assert run_command("evaluate", [*common, "--bootstrap", "300"]) == 0
    assert run_command("audit", [*common, "--bootstrap", "300"]) == 0
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    (tmp_path / "run").mkdir()
    for name in (SPEC_FILE, "metrics.json", "audit.json"):
        shutil.copyfile(whole / name, tmp_path / "run" / name)
    return tmp_path / "run"


def card(run: Path) -> str:
    assert run_command("card", ["--run", str(run)]) == 0
    return (run / "model-card.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text, flags=re.MULTILINE)[1 + list(SECTIONS).index(title)]


def change(run: Path, name: str, how: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((run / name).read_text(encoding="utf-8"))
    del values[SEAL]
    how(values)
    (run / name).write_text(json.dumps(sealed(values)), encoding="utf-8")


def numbers(text: str) -> set[str]:
    """The numbers of a text, but not digits that are part of a name."""
    return set(re.findall(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|\.\d)", text.replace("\\", "")))


def written(value: Any) -> set[str]:
    """How a value of a JSON file can stand in a card."""
    if isinstance(value, dict):
        return set().union(*map(written, value.values()))
    if isinstance(value, list):
        return set().union(*map(written, value))
    if isinstance(value, str):
        return numbers(value)
    if isinstance(value, bool) or value is None:
        return set()
    size = abs(value)
    return {str(size), f"{size:g}", f"{size:.3f}", f"{100 * size:.3g}"}


def test_every_number_is_of_the_runs_files_or_of_the_method(whole: Path) -> None:
    text = re.sub(r"`[^`]*`", "", card(whole))
    known = set(METHOD)
    for name in (SPEC_FILE, "metrics.json", "audit.json"):
        known |= written(json.loads((whole / name).read_text(encoding="utf-8")))
    found = numbers(text)
    assert len(found) > 50
    assert found <= known, found - known


def test_other_figures_make_another_card(run: Path) -> None:
    before = card(run).splitlines()
    change(run, "metrics.json", lambda values: values["overall"].update(brier=0.123456))
    after = card(run).splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 2  # over all films, and in the table of calibration
    assert all("0.123" in line for line in changed)


def test_a_whole_run_has_every_section_and_nothing_is_said_to_be_missing(whole: Path) -> None:
    text = card(whole)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(SECTIONS)
    assert "Not measured" not in text
    assert text.splitlines()[2] == f"**{NOTICE}**"
    for sentence in (INTENDED_USE, *OUT_OF_SCOPE, *LIMITS):
        assert sentence in text
    spec = ModelSpec.load(whole)
    assert f"PneumoScan `{spec.code_version}`" in text
    assert f"Weights sha256 `{spec.weights_sha256}`" in text
    assert "random numbers" in text.split("## ")[0]
    metrics = json.loads((whole / "metrics.json").read_text(encoding="utf-8"))
    low, high = metrics["overall"]["auroc_ci"]
    assert f"| AUROC | {metrics['overall']['auroc']:.3f} | {low:.3f} to {high:.3f}" in text
    assert "| source=one |" in section(text, "Quantitative analyses")
    assert "by source." in section(text, "Factors")
    assert "or sex" in section(text, "Factors")


def test_the_plain_words_of_the_audit_are_the_cards(whole: Path) -> None:
    said = section(card(whole), "Does it look at the lungs at all?")
    words = json.loads((whole / "audit.json").read_text(encoding="utf-8"))["plain_words"]
    assert len(words) > 5
    assert all(f"- {sentence}\n" in said for sentence in words)
    assert "| border alone |" in said


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ([0.05, 0.2], "the model saw something of where its opacities are"),
        ([-0.2, -0.05], "maps of other patients fit the boxes better"),
        ([-0.05, 0.2], "cannot be told from 0"),
        (None, "no interval of the difference to judge by"),
    ],
)
def test_what_the_map_does_on_boxes_is_judged_by_the_interval_alone(
    run: Path, interval: list[float] | None, words: str
) -> None:
    def judged(values: dict[str, Any]) -> None:
        for name in ("pointing", "energy"):
            values["localisation"]["all"][f"{name}_over_swapped_ci"] = interval

    change(run, "metrics.json", judged)
    assert section(card(run), "Does it look at the right place?").count(words) == 2


def test_films_without_boxes_are_said_with_the_command(run: Path) -> None:
    change(run, "metrics.json", lambda values: values.update(localisation=None))
    said = section(card(run), "Does it look at the right place?")
    assert "**Not measured**: no film of PNEUMONIA" in said
    assert "`pneumoscan evaluate --run RUN --data DATA`" in said


@pytest.mark.parametrize("how", ["missing", "of other weights"])
@pytest.mark.parametrize(
    ("name", "command", "sections"),
    [
        ("metrics.json", "pneumoscan evaluate", ("Evaluation data", "Quantitative analyses", "Factors")),
        ("audit.json", "pneumoscan audit", ("Does it look at the lungs at all?",)),
    ],
)
def test_what_was_not_measured_of_these_weights_is_said_with_the_command(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, command: str, sections: tuple[str, ...], how: str
) -> None:
    if how == "missing":
        (run / name).unlink()
    else:
        change(run, name, lambda values: values.update(weights_sha256="0" * 64))
    text = card(run)
    for title in (*sections, "Caveats and recommendations"):
        said = section(text, title)
        assert "**Not measured**" in said
        assert f"`{command} --run RUN --data DATA`" in said
        assert (f"{name} in the run is {how}" in said) == (how != "missing")
        assert "0." not in said
    assert f"Not measured: {command}" in capsys.readouterr().out


def test_figures_at_another_threshold_are_not_shown(run: Path) -> None:
    change(run, "metrics.json", lambda values: values.update(threshold=0.987))
    text = card(run)
    assert "AUROC |" not in section(text, "Quantitative analyses")
    assert "of another threshold" in text


def test_a_model_that_was_not_calibrated_is_said_to_be_so(tmp_path: Path) -> None:
    save_model(tmp_path, indeterminate=None)
    text = card(tmp_path)
    assert "**Not calibrated**" in section(text, "Metrics and decisions")
    assert "does not say where its films come from" in section(text, "Training data")


def test_films_that_had_a_part_in_the_training_are_said_to_look_too_good(run: Path) -> None:
    for name in ("metrics.json", "audit.json"):
        change(run, name, lambda values: values.update(split="val"))
    text = card(run)
    for title in ("Evaluation data", "Does it look at the lungs at all?"):
        assert "**Measured on the validation films" in section(text, title)


def test_other_films_than_those_of_the_trainings_folder_are_said(run: Path) -> None:
    assert "These are other films" not in card(run)
    change(run, "metrics.json", lambda values: values["overall"].update(films=7))
    change(run, "audit.json", lambda values: values.update(data_sha256="other"))
    text = card(run)
    assert "**These are other films" in section(text, "Evaluation data")
    assert "**The model was trained on other data" in section(text, "Does it look at the lungs at all?")


def test_a_licence_against_commercial_use_and_one_that_is_not_stated_are_told_in_words(whole: Path) -> None:
    said = section(card(whole), "Training data")
    assert "**Not for commercial use**: so says the licence of one (CC BY-NC-SA 4.0), whose films went into" in said
    assert said.count("Not for commercial use") == 1
    assert "| two | not stated | not stated |" in said
    assert "the manifest does not say" in said
    assert "is the job of who hands the model" in said


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("CC BY-NC 4.0", True),
        ("cc_by_nc_sa", True),
        ("Non-commercial use only", True),
        ("CC BY 4.0", False),
        ("RSNA challenge terms: attribution; images from NIH Clinical Center", False),
        ("since 2019, licence", False),
        ("", False),
    ],
)
def test_licences_against_commercial_use_are_known_however_they_are_written(
    run: Path, licence: str, forbids: bool
) -> None:
    def state(values: dict[str, Any]) -> None:
        for one in values["training"]["data"]:
            one["licence"] = licence

    change(run, SPEC_FILE, state)
    assert ("Not for commercial use" in card(run)) == forbids


def test_synthetic_films_are_said_in_bold_at_the_top(run: Path) -> None:
    def top() -> str:
        return card(run).split("## ")[0]

    def synthetic(values: dict[str, Any]) -> None:
        for one in values["training"]["data"]:
            one["source"] = "synthetic"

    assert "synthetic" not in top()
    change(run, "metrics.json", lambda values: values.update(synthetic=True))
    assert "**Every film it was measured on is synthetic.**" in top()
    change(run, SPEC_FILE, synthetic)
    assert "**Every film is synthetic.**" in top()
    change(run, "metrics.json", lambda values: values.update(synthetic=False))
    assert "**Every film it was trained on is synthetic.**" in top()


@pytest.mark.parametrize(
    ("trainable", "words"),
    [("head", "The head alone was trained"), ("layer4", "then layer4 and the head"), ("all", "then all layers")],
)
def test_what_was_trained_is_said(run: Path, trainable: str, words: str) -> None:
    change(run, SPEC_FILE, lambda values: values["training"].update(trainable=trainable, tuning={"epochs": 17}))
    said = section(card(run), "Model details")
    assert words in said
    assert f"for up to {20 if trainable == 'head' else 17} epochs" in said
    assert ("Backbone, frozen" in said) == (trainable == "head")


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(whole: Path, run: Path) -> None:
    first = [card(whole).encode(), (whole / "model-card.html").read_bytes()]
    assert [card(run).encode(), (run / "model-card.html").read_bytes()] == first
    assert str(whole) not in first[0].decode()


def test_the_html_opens_anywhere_and_says_what_the_markdown_says(whole: Path) -> None:
    card(whole)
    page = (whole / "model-card.html").read_text(encoding="utf-8")
    reader = Reader(page)
    assert reader.open == []
    assert reader.links == []
    assert not {"script", "link", "img"} & set(reader.tags)
    assert "url(" not in page
    assert set(SECTIONS) <= set(reader.words)


def test_hostile_words_of_a_manifest_stay_in_their_cells(run: Path, tmp_path: Path) -> None:
    data = write_films(tmp_path / "data", per_class=2)
    hostile = "a|b\n| c | d |\n\n## <script>alert(1)</script> `x` [y](http://z)"
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    with (data / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "label_source", "licence"])
        writer.writeheader()
        writer.writerows(
            {**row, "source": hostile, "label_source": hostile, "licence": f"NC {hostile}"} for row in rows
        )
    found = provenance(load_films(data).records)
    assert found[0]["source"] == hostile
    facts = Facts.of(run)
    assert facts.metrics is not None
    groups: dict[str, GroupFigures] = {**facts.metrics.groups, f"source={hostile}": facts.metrics.overall}
    changed = dataclasses.replace(
        facts,
        training=dataclasses.replace(facts.training, data=tuple(Collection(**one) for one in found)),
        metrics=dataclasses.replace(facts.metrics, groups=groups),
    )
    text = render("model-card.md.j2", **card_values(changed))
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(SECTIONS)
    assert not re.search(r"(?<!\\)<script", text)
    assert "[y]" not in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert any("a\\|b" in table for table in tables)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
        assert "| c | d |" not in table
    made = {**facts.spec.training, "data": found}
    (run / SPEC_FILE).write_text(dataclasses.replace(facts.spec, training=made).to_json(), encoding="utf-8")
    card(run)
    reader = Reader((run / "model-card.html").read_text(encoding="utf-8"))
    assert "script" not in reader.tags
    assert reader.links == []
    assert re.sub(r"\n+", " ", hostile) in reader.words


def test_the_card_goes_where_out_says_and_replaces_nothing_unasked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "cards" / "first.md"
    assert run_command("card", ["--run", str(run), "--out", str(out)]) == 0
    assert out.read_text(encoding="utf-8") == card(run)
    assert out.with_suffix(".html").is_file()
    out.write_text("of somebody else", encoding="utf-8")
    assert run_command("card", ["--run", str(run), "--out", str(out)]) == 2
    assert out.read_text(encoding="utf-8") == "of somebody else"
    assert run_command("card", ["--run", str(run), "--out", str(out), "--force"]) == 0
    assert out.read_text(encoding="utf-8") == card(run)


def test_wrong_usage_is_one_line_and_exit_2(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*arguments: str) -> str:
        assert run_command("card", list(arguments)) == 2
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == 1
        assert said.out == ""
        return said.err

    assert "run pneumoscan export" in refused("--run", str(tmp_path / "lost"))
    assert "give the name of a .md file" in refused("--run", str(run), "--out", str(tmp_path / "card.pdf"))
    (run / "audit.json").write_text("{", encoding="utf-8")
    assert "run pneumoscan audit again" in refused("--run", str(run))
    (run / "audit.json").unlink()
    change(run, "metrics.json", lambda values: values.pop("groups"))
    assert (
        "metrics.json is damaged or of another version (groups is missing): run pneumoscan evaluate again"
        in refused("--run", str(run))
    )
    (run / "metrics.json").write_text("[]", encoding="utf-8")
    assert "run pneumoscan evaluate again" in refused("--run", str(run))
    (run / "metrics.json").unlink()
    change(run, SPEC_FILE, lambda values: values["training"].update(data=[{"source": "one"}]))
    assert "model.json is not of this version (data[0].films is missing): train and export again" in refused(
        "--run", str(run)
    )
    assert not (run / "model-card.md").exists()


def test_a_mistake_of_ours_is_not_taken_for_a_damaged_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What used to end as one line that told the user to evaluate again."""

    def broken(*_: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("cxr_training.pages.card.figures_table", broken)
    with pytest.raises(KeyError, match="ours"):
        run_command("card", ["--run", str(run)])
