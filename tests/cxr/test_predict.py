"""One path: right for each film, the same in any batch, and only on the weights the spec names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax as scipy_softmax

from cxr.errors import ModelError
from cxr.model.preprocess import resize, to_tensor
from cxr.predict import Predictor, resolve_device, softmax
from tests.cxr.networks import SMALL, predictor, save_model, small_network
from tests.films import film

FILMS = [film(seed, 64 + 7 * seed, 90) for seed in range(40)]


@pytest.fixture
def model(tmp_path: Path) -> Predictor:
    save_model(tmp_path)
    return predictor(tmp_path)


def test_logits_are_those_of_torchvisions_forward(model: Predictor) -> None:
    prediction = model.predict([FILMS[0]])[0]
    with torch.inference_mode():
        expected = small_network()(to_tensor(FILMS[0], SMALL)[None])[0]
    np.testing.assert_allclose(prediction.logits, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(prediction.probabilities, scipy_softmax(expected.numpy()), atol=1e-5)


def test_standard_greys_are_served_as_they_are_trained_on_and_whoever_resized_the_film(tmp_path: Path) -> None:
    preprocessing = dataclasses.replace(SMALL, greys="field")
    save_model(tmp_path, preprocessing=preprocessing)
    dark = FILMS[0] // 3
    first, resized, darker = predictor(tmp_path).predict([FILMS[0], resize(FILMS[0], SMALL), dark])
    with torch.inference_mode():
        expected = small_network()(to_tensor(FILMS[0], preprocessing)[None])[0]
    np.testing.assert_allclose(first.logits, expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(resized.logits, expected.numpy(), atol=1e-4)
    save_model(tmp_path / "stored", preprocessing=SMALL)
    plain, plain_dark = predictor(tmp_path / "stored").predict([FILMS[0], dark])
    moved = np.abs(first.logits - darker.logits).max()
    assert moved < 0.2 * np.abs(plain.logits - plain_dark.logits).max()


@pytest.mark.parametrize("target", ["NORMAL", "PNEUMONIA", "contrast", "predicted"])
def test_mean_of_the_grid_plus_bias_is_the_logit_of_its_target(model: Predictor, target: str) -> None:
    prediction = model.predict([FILMS[1]])[0]
    normal, pneumonia = prediction.logits
    explanation = prediction.explain(target)
    expected = {"NORMAL": normal, "PNEUMONIA": pneumonia, "contrast": pneumonia - normal}[explanation.target]
    assert explanation.grid.mean(dtype=np.float64) + explanation.bias == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.97])
def test_about_the_decision_a_map_is_red_on_the_whole_where_the_label_is_pneumonia(
    tmp_path: Path, threshold: float
) -> None:
    fields = {"operating_points": {"youden": threshold}, "indeterminate": (0.01, 0.99), "temperature": 1.7}
    save_model(tmp_path / "before", **fields)
    save_model(tmp_path / "now", cam_zero="decision", **fields)
    before, now = (predictor(tmp_path / name).predict(FILMS) for name in ("before", "now"))
    for old, new in zip(before, now, strict=True):
        assert (old.label, old.probabilities.tolist()) == (new.label, new.probabilities.tolist())
        np.testing.assert_allclose(new.maps.mean((1, 2), dtype=np.float64) + new.bias, new.logits, atol=1e-4)
        assert (new.evidence.mean(dtype=np.float64) >= 0) == (new.label == "PNEUMONIA")
        assert np.ptp(new.evidence - old.evidence) < 1e-5  # a constant apart


def test_a_film_gets_the_same_answer_alone_and_anywhere_in_any_batch(model: Predictor) -> None:
    alone = model.predict([FILMS[5]])[0]
    for batch in (FILMS[:8], [FILMS[5], *FILMS[:3]], FILMS):
        place = next(i for i, pixels in enumerate(batch) if pixels is FILMS[5])
        together = model.predict(batch)[place]
        np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(together.maps, alone.maps, atol=1e-4)


def test_no_films_give_no_predictions(model: Predictor) -> None:
    assert model.predict([]) == []


def test_threshold_and_band_decide(tmp_path: Path) -> None:
    save_model(tmp_path)
    probability = float(predictor(tmp_path).predict([FILMS[0]])[0].probabilities[1])
    for shift, label in ((-0.01, "PNEUMONIA"), (0.01, "NORMAL")):
        save_model(
            tmp_path, operating_points={"here": probability + shift}, operating_point="here", indeterminate=(0.0, 0.0)
        )
        decided = predictor(tmp_path).predict([FILMS[0]])[0]
        assert (decided.label, decided.indeterminate) == (label, False)
    save_model(tmp_path, indeterminate=(probability - 0.01, probability + 0.01))
    assert predictor(tmp_path).predict([FILMS[0]])[0].indeterminate


def test_temperature_softens_probabilities_and_leaves_logits(tmp_path: Path) -> None:
    save_model(tmp_path)
    plain = predictor(tmp_path).predict([FILMS[0]])[0]
    save_model(tmp_path, temperature=4.0)
    soft = predictor(tmp_path).predict([FILMS[0]])[0]
    np.testing.assert_array_equal(soft.logits, plain.logits)
    np.testing.assert_allclose(soft.probabilities, scipy_softmax(plain.logits / 4.0))


class Shifted:
    """An engine that is the reference, with all features a little larger and none for one film."""

    name = "openvino-int8"
    max_batch = 4
    sizes = (1,)

    def __init__(self, model: Predictor, beyond: torch.Tensor | None = None) -> None:
        self._engine = model.engine
        self._beyond = beyond

    def features(self, grey: torch.Tensor) -> torch.Tensor:
        found = self._engine.features(grey) * 1.001
        for index, one in enumerate(grey):
            if self._beyond is not None and torch.equal(one, self._beyond):
                found[index] = torch.nan
        return found


def test_films_near_a_decision_get_the_second_engines_answer_and_no_others(model: Predictor) -> None:
    expected = model.predict(FILMS)
    odds = np.array([np.subtract(*one.logits[::-1]) for one in expected])
    nearest = int(np.argsort(odds)[len(odds) // 2])
    threshold = 1 / (1 + np.exp(-odds[nearest]))
    spec = dataclasses.replace(model.spec, operating_points={"youden": threshold}, indeterminate=None)
    engine = Shifted(model)
    alone = Predictor(model.network, spec, model.device, engine).predict(FILMS)
    assert not any(one.rescored for one in alone)
    margin = 2 * max(abs(np.subtract(*(a.logits - b.logits))) for a, b in zip(alone, expected, strict=True))
    both = Predictor(model.network, spec, model.device, engine, second=model.engine, margin=margin)
    asked = both.predict(FILMS)
    again = [index for index in range(len(FILMS)) if not np.array_equal(asked[index].maps, alone[index].maps)]
    assert again == [index for index in range(len(FILMS)) if asked[index].rescored]
    assert nearest in again
    assert len(again) < len(FILMS)
    for index in again:
        np.testing.assert_allclose(asked[index].logits, expected[index].logits, rtol=0, atol=1e-6)
        np.testing.assert_allclose(asked[index].maps.mean((1, 2)) + asked[index].bias, asked[index].logits, atol=1e-5)
    np.testing.assert_array_equal(both.predict([FILMS[nearest]])[0].logits, asked[nearest].logits)


def test_a_film_that_the_engine_cannot_compute_gets_the_second_engines_answer(model: Predictor) -> None:
    beyond = torch.from_numpy(np.array(resize(FILMS[1], model.spec.preprocessing)))
    engine = Shifted(model, beyond)
    expected = model.predict(FILMS[:3])
    alone = Predictor(model.network, model.spec, model.device, engine).predict(FILMS[:3])
    assert [one.is_finite for one in alone] == [True, False, True]
    found = Predictor(model.network, model.spec, model.device, engine, second=model.engine).predict(FILMS[:3])
    assert [one.rescored for one in found] == [False, True, False]
    np.testing.assert_allclose(found[1].logits, expected[1].logits, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found[0].logits, alone[0].logits)


def test_softmax_does_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([-4000.0, 4000.0]), 1.0), [0, 1])


def test_predicting_leaves_the_network_in_evaluation_mode_and_its_statistics_alone(model: Predictor) -> None:
    model.network.train()
    model = Predictor(model.network, model.spec, model.device)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    model.predict(FILMS[:4])
    assert not any(module.training for module in model.network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())


def test_precision_is_full_even_where_something_lowered_it(model: Predictor) -> None:
    torch.set_float32_matmul_precision("high")
    model.predict(FILMS[:1])
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32 is False


def test_one_flipped_byte_in_the_weights_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path)
    data = bytearray((tmp_path / "model.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.pth").write_bytes(data)
    with pytest.raises(ModelError, match="damaged or of another model"):
        predictor(tmp_path)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.json is missing"):
        predictor(tmp_path)
    save_model(tmp_path)
    (tmp_path / "model.pth").unlink()
    with pytest.raises(ModelError, match=r"model\.pth is missing"):
        predictor(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, arch="resnet18")
    with pytest.raises(ModelError, match="do not fit the network"):
        predictor(tmp_path)


def test_an_overflow_is_seen(tmp_path: Path) -> None:
    network = small_network()
    with torch.no_grad():
        network.fc.weight.fill_(float("inf"))
    save_model(tmp_path, network)
    assert not predictor(tmp_path).predict([FILMS[0]])[0].is_finite


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(ModelError, match="known are auto, cpu"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="sees no GPU"):
            resolve_device("cuda")
        assert resolve_device("auto") == torch.device("cpu")
