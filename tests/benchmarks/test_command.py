"""The benchmark measures what it says, on a small network; no figure is judged here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.renderings import RENDERINGS
from benchmarks.result import Result, read_json
from benchmarks.train import TutorialRecipe, rate_of, sample_by_group
from cxr_training.data.records import load_films
from cxr_training.fit.processes import Processes
from tests.commands import run_command
from tests.cxr.networks import SMALL, small_network
from tests.cxr_training.folders import write_manifest

CPU = Processes(torch.device("cpu"))


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> Result:
    """The result that a command gives as JSON."""
    assert run_command("bench", [*arguments, "--json"]) == 0
    return read_json(capsys.readouterr().out)


def test_the_network_alone_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    result = measured(capsys, "raw", "--arch", "resnet10", "--device", "cpu", "--batch", "2", "--repeats", "3")
    reference = result.rows("engines")["torch-float32"]
    assert reference["images_per_s"].median == pytest.approx(2 / reference["forward_ms"].median * 1000, rel=0.01)
    assert len(reference["forward_ms"].rounds) == 3
    assert result.rows("share")["heat maps / reference's pass"]["share"].median > 0
    assert [result.settings[name] for name in ("arch", "batch", "repeats", "device")] == ["resnet10", 2, 3, "cpu"]


def test_the_table_names_the_network_and_the_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bench", ["raw", "--arch", "resnet10", "--device", "cpu", "--batch", "1", "--repeats", "1"]) == 0
    shown = capsys.readouterr().out
    assert "resnet10, batch 1" in shown
    assert "median of 1 rounds" in shown
    assert "heat maps / reference's pass" in shown


def test_every_engine_that_runs_here_is_timed_in_turn_and_others_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    result = measured(capsys, "raw", "--arch", "resnet10", "--device", "cpu", "--batch", "1", "--repeats", "2")
    engines = result.rows("engines")
    assert {"torch-float32", "openvino-float32"} <= {name for name, figures in engines.items() if figures}
    assert engines["torch-float32"]["speedup"].median == 1.0
    (note,) = (row.note for row in result.tables[0].rows if row.label == "openvino-int8")
    assert "not timed: " in note
    assert "pneumoscan quantise" in note


def test_a_batch_of_none_is_wrong_usage() -> None:
    assert run_command("bench", ["raw", "--batch", "0"]) == 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("data"), 8)


def test_training_is_compared_with_the_tutorials_loop_on_the_same_films(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [
        "train",
        "--data",
        str(data),
        "--weights",
        "random",
        "--arch",
        "resnet10",
        "--size",
        "64",
        "--device",
        "cpu",
    ]
    result = measured(capsys, *base, "--rounds", "3", "--epochs", "2", "--films", "3")
    assert result.settings["counts"] == {"train": 16, "val": 16, "test": 16}
    ms = {name: figures["ms"].median for name, figures in result.rows("cost").items()}
    carried_on = result.rows("carried on")["tutorial"]
    assert carried_on["tutorial_s"].median == pytest.approx(
        100 * (16 * ms["tutorial train"] + 16 * ms["tutorial test"]) / 1000, rel=0.5
    )
    ratio = carried_on["ratio"]
    assert ratio.lowest is not None
    assert ratio.highest is not None
    assert ratio.lowest <= ratio.median <= ratio.highest
    groups = result.rows("result")
    assert set(groups) == {"all", "source=one", "source=two"}
    assert groups["all"]["films"].median == 12  # three of two sources and two classes
    assert groups["all"]["epoch tutorial"].median in (1, 2)
    for row in groups.values():
        assert row["difference"].median == pytest.approx(row["ours"].median - row["tutorial"].median)
        assert row["difference"] == row["auroc difference"]


def test_without_epochs_only_costs_are_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = [
        "train",
        "--data",
        str(data),
        "--weights",
        "random",
        "--arch",
        "resnet10",
        "--size",
        "64",
        "--device",
        "cpu",
    ]
    assert run_command("bench", [*base, "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "times as fast" in shown
    assert "AUROC" not in shown


def test_a_folder_that_is_missing_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("bench", ["train", "--data", "lost-folder"]) == 2
    assert capsys.readouterr().err.startswith("pneumoscan bench: lost-folder is not a folder")


def test_the_tutorials_rate_is_a_tenth_already_in_the_fourth_epoch() -> None:
    """As its scheduler does that is stepped first: torch's own."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    optimizer.step()
    rates = []
    for _ in range(12):
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert [rate_of(epoch) for epoch in range(1, 13)] == pytest.approx(rates)
    assert rates[2:4] == pytest.approx([1e-3, 1e-4])


def test_the_tutorials_loop_moves_the_head_and_the_statistics_of_the_frozen_part(data: Path) -> None:
    start = small_network()
    recipe = TutorialRecipe(start, SMALL, CPU)
    before = {name: tensor.clone() for name, tensor in recipe.network.state_dict().items()}
    recipe.learn(load_films(data).of("train"))
    after = recipe.network.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {"fc.0.weight", "fc.0.bias", "bn1.running_mean", "layer4.0.bn2.running_var"} <= changed
    assert not any(name.endswith("weight") and not name.startswith("fc.") for name in changed)
    assert all(torch.equal(tensor, start.state_dict()[name]) for name, tensor in small_network().state_dict().items())


def test_a_source_of_normal_films_alone_is_shown_by_its_specificity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_manifest(tmp_path / "data", 4)
    text = (folder / "manifest.csv").read_text(encoding="utf-8")
    rows = [line.replace("two", "healthy") if "NORMAL" in line else line.replace("two", "one") for line in text.split()]
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    base = ["train", "--data", str(folder), "--weights", "random", "--arch", "resnet10", "--size", "64"]
    assert run_command("bench", [*base, "--device", "cpu", "--rounds", "1", "--epochs", "1"]) == 0
    assert "source=healthy (specificity)" in capsys.readouterr().out


def test_at_most_so_many_films_of_each_source_and_label_are_taken(data: Path) -> None:
    records = load_films(data).of("train")
    few = sample_by_group(records, 2, seed=0)
    keys = [(record.extra["source"], record.label) for record in few]
    assert sorted(keys.count(key) for key in set(keys)) == [2, 2, 2, 2]
    assert few == sample_by_group(records, 2, seed=0)
    assert [records.index(one) for one in few] == sorted(records.index(one) for one in few)
    assert len(sample_by_group(records, 99, seed=0)) == len(records)


def test_the_same_grey_in_another_file_changes_no_answer_and_a_sixteenth_of_it_does(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ["--weights", "random", "--arch", "resnet10", "--size", "64", "--epochs", "5", "--device", "cpu"]
    assert run_command("train", ["--data", str(data), "--run", str(run), *options]) == 0
    capsys.readouterr()
    result = measured(capsys, "renderings", "--run", str(run), "--data", str(data), "--films", "6")
    rows = result.rows("run")
    assert set(rows) == set(RENDERINGS)
    for name in ("PNG, 16 bits", "DICOM with window", "MONOCHROME1, inverted", "inverting VOI LUT"):
        assert rows[name]["labels"].median == 0
        assert rows[name]["largest"].median < 0.05  # half a grey of rounding
    assert rows["a sixteenth as bright"]["largest"].median > rows["half as bright"]["mean"].median > 0
