"""The benchmark measures what it says, on a small network; no figure is judged here."""

from __future__ import annotations

import json

import pytest

from scripts.benchmark import main


def test_the_network_alone_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["raw", "--arch", "resnet10", "--device", "cpu", "--batch", "2", "--repeats", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images_per_s"] == pytest.approx(2 / result["forward_ms"] * 1000, rel=0.01)
    assert result["cam_share"] > 0
    assert (result["arch"], result["batch"], result["repeats"]) == ("resnet10", 2, 3)


def test_the_table_names_the_network_and_the_share(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["raw", "--arch", "resnet10", "--device", "cpu", "--batch", "1", "--repeats", "1"]) == 0
    shown = capsys.readouterr().out
    assert "resnet10, batch 1, median of 1 rounds" in shown
    assert "heat maps / forward" in shown


def test_a_batch_of_none_is_wrong_usage() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["raw", "--batch", "0"])
    assert ended.value.code == 2
