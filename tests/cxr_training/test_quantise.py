"""The network in int8: made from training films, bound to its weights, and held to the gate like any other engine."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr.engines.load import ReferenceEngine, load_engine
from cxr.engines.openvino import adds_int8_exactly
from cxr.errors import ModelError
from cxr.model.network import features
from cxr.model.parity import INT8_FILES, REFERENCE, Parity, files_digest
from cxr.model.preprocess import normalise, resize
from cxr.model.spec import SPEC_FILE, ModelSpec
from cxr.predict import Predictor
from cxr_training import calibrate, export
from cxr_training.data.records import load_films
from cxr_training.runs import checkpoint_predictor
from pneumoscan.archive import package
from tests.commands import run_command
from tests.cxr.networks import SMALL, small_network
from tests.cxr_training.folders import write_manifest
from tests.films import film

CPU = torch.device("cpu")
needs_vnni = pytest.mark.skipif(not adds_int8_exactly(), reason="this processor has no VNNI")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("data"), 12)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    common = ["--weights", "random", "--arch", "resnet10", "--size", "64", "--device", "cpu", "--epochs", "5"]
    assert run_command("train", ["--data", str(data), "--run", str(folder), *common]) == 0
    assert run_command("quantise", ["--run", str(folder), "--data", str(data), "--films", "8"]) == 0
    return folder


def test_its_convolutions_are_in_8_bits_but_those_that_are_kept(run: Path) -> None:
    text = (run / INT8_FILES[0]).read_text(encoding="utf-8")
    quantised = {f"layer{stage}" for stage in (1, 2, 3, 4) if f'name="layer{stage}.0.conv1/fq_weights' in text}
    assert quantised == {"layer2", "layer3", "layer4"}
    assert 'element_type="i8"' in text


@needs_vnni
def test_it_is_near_the_reference_on_films_it_has_not_seen(run: Path, data: Path) -> None:
    predictor = checkpoint_predictor(run, "cpu")
    preprocessing = predictor.spec.preprocessing
    engine = load_engine("openvino-int8", predictor.network, preprocessing, CPU, run)
    films = np.stack([resize(record.read(), preprocessing) for record in load_films(data).of("val")])
    with torch.inference_mode():
        expected = features(predictor.network, normalise(torch.from_numpy(films), preprocessing))
        got = engine.features(torch.from_numpy(films))
    within = got.flatten(1).isfinite().all(dim=1)
    assert within.float().mean() > 0.5
    got, expected = got[within], expected[within]
    assert 0.9 < np.corrcoef(got.numpy().ravel(), expected.numpy().ravel())[0, 1] < 1 - 1e-7


@needs_vnni
def test_a_film_that_reaches_beyond_the_ranges_gets_no_features(run: Path) -> None:
    predictor = checkpoint_predictor(run, "cpu")
    preprocessing = predictor.spec.preprocessing
    engine = load_engine("openvino-int8", predictor.network, preprocessing, CPU, run)
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255  # no film has edges like these
    films = torch.from_numpy(np.stack([film(3, 64, 64), board.astype(np.uint8)]))
    reference = ReferenceEngine(predictor.network, preprocessing, CPU)
    with torch.inference_mode():
        got = engine.features(films)
        within = reference.features(films[:1])[0]
    assert got[1].isnan().all()
    assert 1e-3 < float((got[0] - within).abs().max() / within.abs().max()) < 1


def test_it_belongs_to_its_weights_alone(run: Path) -> None:
    with pytest.raises(ModelError, match="of other weights"):
        load_engine("openvino-int8", small_network(seed=9), SMALL, CPU, run)


def test_a_damaged_file_is_told_as_such(run: Path, tmp_path: Path) -> None:
    for name in INT8_FILES:
        shutil.copyfile(run / name, tmp_path / name)
    (tmp_path / INT8_FILES[0]).write_text("<net", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        load_engine("openvino-int8", checkpoint_predictor(run, "cpu").network, SMALL, CPU, tmp_path)


@needs_vnni
def test_the_figures_of_one_graph_do_not_let_another_of_the_same_weights_serve(run: Path, tmp_path: Path) -> None:
    for name in ("checkpoint.pth", *INT8_FILES):
        shutil.copyfile(run / name, tmp_path / name)
    parity = Parity(1000, 0, 0.0, 0.0, 1.0, 1.0, "a processor", files_digest("openvino-int8", run))
    spec = dataclasses.replace(
        checkpoint_predictor(run, "cpu").spec,
        indeterminate=(0.4, 0.6),
        engines={"cpu": "openvino-int8", "cuda": REFERENCE},
        parity={"openvino-int8": parity},
    )
    (tmp_path / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    served = Predictor.load(tmp_path, "cpu")
    assert served.second is not None
    assert (served.engine.name, served.second.name) == ("openvino-int8", "openvino-float32")
    with (tmp_path / INT8_FILES[0]).open("a", encoding="utf-8") as graph:
        graph.write("\n")  # still a graph of these weights
    for use in (lambda: Predictor.load(tmp_path, "cpu"), lambda: package(tmp_path, "1.0.0", tmp_path / "store")):
        with pytest.raises(ModelError, match="not those that were compared"):
            use()
    (tmp_path / INT8_FILES[1]).unlink()
    with pytest.raises(ModelError, match=r"has no int8\.bin: run pneumoscan quantise"):
        package(tmp_path, "1.0.0", tmp_path / "store")


def test_a_processor_whose_sums_of_8_bit_products_overflow_does_not_serve_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = checkpoint_predictor(run, "cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    with pytest.raises(ModelError, match="needs a processor with VNNI"):
        load_engine("openvino-int8", predictor.network, predictor.spec.preprocessing, CPU, run)


def test_an_engine_that_does_not_run_is_left_out_unless_it_was_asked_for(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))

    def fail(*_: object) -> Predictor:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(calibrate, "with_engine", fail)
    common = ["--run", str(copied), "--data", str(data), "--device", "cpu"]
    assert run_command("calibrate", common) == 0
    said = capsys.readouterr().err
    assert "openvino-float32 is left out, torch-float32 serves in its place" in said
    assert "stream is capturing)" in said
    assert export.export(copied).engines["cpu"] == REFERENCE
    assert run_command("calibrate", [*common, "--engine", "openvino-float32"]) == 2


@needs_vnni
def test_it_serves_only_after_it_was_compared(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--run", str(run), "--cpu-engine", "openvino-int8"]
    assert run_command("calibrate", ["--run", str(run), "--data", str(data), "--device", "cpu"]) == 0
    assert run_command("export", chosen) == 2
    assert "was never compared" in capsys.readouterr().err
    assert (
        run_command(
            "calibrate", ["--run", str(run), "--data", str(data), "--device", "cpu", "--engine", "openvino-int8"]
        )
        == 0
    )
    verdict = capsys.readouterr().out
    passed = "openvino-int8 passes" in verdict
    assert passed or "openvino-int8 does not pass" in verdict
    assert run_command("export", chosen) == (0 if passed else 2)
    if passed:
        assert ModelSpec.load(run).engines["cpu"] == "openvino-int8"
    else:
        assert "does not pass the gate" in capsys.readouterr().err


def test_parts_that_no_resnet_has_are_named(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("quantise", ["--run", str(run), "--data", str(data), "--keep", "layer9"]) == 2
    assert "layer9" in capsys.readouterr().err
