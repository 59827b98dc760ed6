"""Training below the head: what moves, what stays, what is kept, and that it goes on after a kill as if nothing was."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import ResNet

from cxr.model.network import build, features, pool, read_state_dict, trunk
from cxr_training import train
from cxr_training.data.records import Films, load_films
from cxr_training.errors import TrainingError
from cxr_training.fit.features import View
from cxr_training.fit.head import Weighting
from cxr_training.fit.processes import Processes
from cxr_training.fit.resume import Unfinished
from cxr_training.fit.settings import HeadSettings, TrainSettings, TuneSettings
from cxr_training.fit.stages import targets_of
from cxr_training.fit.tune import Split, TunedPart, batches_of, parameter_groups, rate_factor, splits
from cxr_training.fit.tune_loop import State, TuneLoop
from tests.commands import run_command
from tests.cxr.networks import SMALL, small_network
from tests.cxr_training.folders import write_manifest

CPU = Processes(torch.device("cpu"))
QUICK = TuneSettings(epochs=3, batch_size=6, learning_rate=2e-4)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return load_films(write_manifest(tmp_path_factory.mktemp("data"), 8))


@pytest.fixture(scope="module")
def halves(films: Films) -> tuple[Split, Split]:
    """Training and validation films as the loop reads them; the training films look otherwise in every epoch."""
    train_films, val_films = films.of("train"), films.of("val")
    tensors = {(i, e): View(e).tensor(one, SMALL) for i, one in enumerate(train_films) for e in range(5)}
    plain = [View().tensor(one, SMALL) for one in val_films]
    return splits(
        lambda row, epoch: tensors[row, epoch],
        targets_of(train_films),
        lambda row, _: plain[row],
        targets_of(val_films),
        Weighting.even(len(train_films), len(val_films)),
    )


def tuned(halves: tuple[Split, Split], trainable: str = "all", **changes: Any) -> tuple[ResNet, TuneLoop]:
    """A small network after fine-tuning, and the loop that did it."""
    network = small_network()
    settings = dataclasses.replace(QUICK, **changes)
    loop = TuneLoop(network, trainable, *halves, settings, seed=4, processes=CPU)
    loop.run()
    return network, loop


def test_each_stage_learns_slower_than_the_one_above_it_and_no_parameter_is_forgotten() -> None:
    network = build("resnet10", 2)
    groups = parameter_groups(network, "all", TuneSettings(learning_rate=1.0, layer_decay=0.5, weight_decay=0.1))
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    assert rates[network.fc.weight] == 1.0
    assert rates[network.layer4[0].conv1.weight] == 0.5
    assert rates[network.layer1[0].bn2.bias] == 0.5**4
    assert rates[network.conv1.weight] == rates[network.bn1.weight] == 0.5**5
    decays = {parameter: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decays[network.fc.weight] == decays[network.conv1.weight] == 0.1
    assert decays[network.fc.bias] == decays[network.bn1.weight] == 0.0


def test_the_learning_rate_rises_to_its_whole_and_falls_along_a_cosine() -> None:
    factors = [rate_factor(step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0
    assert factors[5 + 95 // 2] == pytest.approx(0.5, abs=0.01)
    assert 0.0 < factors[99] < 0.001
    assert factors[5:] == sorted(factors[5:], reverse=True)


def test_an_epoch_holds_every_film_once_in_an_order_of_its_own() -> None:
    first, second = (batches_of(50, 16, 3, epoch) for epoch in (1, 2))
    assert sorted(row for rows in first for row in rows) == list(range(50))
    assert sorted(map(len, first)) == [12, 12, 13, 13]
    assert first != second
    assert first == batches_of(50, 16, 3, 1)


def test_with_layer4_all_below_it_stays_as_it_was(halves: tuple[Split, Split]) -> None:
    shortened = [dataclasses.replace(half, load=_below_layer4(half)) for half in halves]
    network, _ = tuned((shortened[0], shortened[1]), "layer4")
    before = small_network().state_dict()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in network.named_parameters() if name.startswith(("layer4.", "fc."))}


def _below_layer4(half: Split) -> Any:
    frozen = small_network()

    def load(row: int, epoch: int) -> torch.Tensor:
        with torch.inference_mode():
            return trunk(frozen, half.load(row, epoch)[None])[0].clone()

    return load


def test_with_all_every_weight_moves_and_no_batchnorm_statistic(halves: tuple[Split, Split]) -> None:
    network, _ = tuned(halves)
    before = small_network().state_dict()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, _ in network.named_parameters()}
    assert not network.training


def test_a_stored_layer3_gives_the_logits_of_the_film() -> None:
    network, pictures = small_network(), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        from_film = TunedPart(network, whole=True)(pictures)
        from_layer3 = TunedPart(network, whole=False)(trunk(network, pictures))
        torch.testing.assert_close(from_layer3, from_film)
        torch.testing.assert_close(from_film, network.fc(pool(features(network, pictures))))


def test_the_steps_are_those_of_a_plain_loop(halves: tuple[Split, Split]) -> None:
    """The same films in the same order through nothing but torch's own parts."""
    network, loop = tuned(halves, epochs=1, patience=9, layer_decay=1.0, learning_rate=1e-4)
    assert loop.best_epoch == 1  # else the comparison would be with the start
    plain, train_films = small_network().eval(), halves[0]
    decayed = [one for one in plain.parameters() if one.ndim > 1]
    others = [one for one in plain.parameters() if one.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], weight_decay=1e-2)
    batches = batches_of(16, 6, 4, 1)
    for step, rows in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * [1.0, 1.0, 0.5][step]  # of three steps the first is the rise
        optimizer.zero_grad()
        logits = plain(torch.stack([train_films.load(row, 1) for row in rows]))
        nn.functional.cross_entropy(logits, train_films.targets[rows]).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, atol=2e-5, rtol=1e-3)


def test_a_rare_group_gets_the_share_of_the_gradient_it_was_given() -> None:
    """The mean of the steps' gradients over an epoch is that of all films at once, however the groups fall."""
    network, films = small_network(), 24
    inputs = torch.rand(films, 3, 64, 64)
    targets = torch.tensor([0] * 12 + [1] * 12)
    weights = torch.tensor([0.5] * 22 + [6.5] * 2)  # two films of a rare group, with a mean of 1
    half = Split(lambda row, _: inputs[row], targets, weights)
    settings = TuneSettings(epochs=1, batch_size=4, weight_decay=0.0)
    loop = TuneLoop(network, "all", half, half, settings, seed=0, processes=CPU)
    gradients: list[torch.Tensor] = []
    loop.optimizer.step = lambda *_: gradients.append(network.fc.weight.grad.clone())  # type: ignore[assignment]
    nn_clip, nn.utils.clip_grad_norm_ = nn.utils.clip_grad_norm_, lambda *_: torch.zeros(())  # type: ignore[assignment]
    try:
        loop.run()
    finally:
        nn.utils.clip_grad_norm_ = nn_clip
    network.zero_grad()
    losses = nn.functional.cross_entropy(network(inputs), targets, reduction="none")
    ((losses * weights).sum() / weights.sum()).backward()
    torch.testing.assert_close(torch.stack(gradients).mean(dim=0), network.fc.weight.grad, atol=1e-6, rtol=1e-3)


def test_the_head_alone_is_kept_where_nothing_gets_better(halves: tuple[Split, Split]) -> None:
    network, loop = tuned(halves, learning_rate=5.0, patience=2, epochs=9)
    assert loop.best_epoch == 0
    assert [epoch.epoch for epoch in loop.history] == [0, 1, 2]  # then patience was at its end
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in small_network().state_dict().items())


def test_the_best_epoch_on_validation_is_kept(halves: tuple[Split, Split]) -> None:
    network, loop = tuned(halves, epochs=4, patience=4)
    losses = [epoch.val_loss for epoch in loop.history]
    assert loop.best_epoch == int(np.argmin(losses)) > 0
    with torch.inference_mode():
        logits = network(torch.stack([halves[1].load(row, 0) for row in range(16)]))
    assert float(nn.functional.cross_entropy(logits, halves[1].targets)) == pytest.approx(min(losses), abs=1e-4)


def test_training_in_bfloat16_is_measured_in_float32(halves: tuple[Split, Split]) -> None:
    network, loop = tuned(halves, precision="bfloat16", epochs=1, patience=9)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    exact, other = loop.history[0], tuned(halves, epochs=1)[1].history[0]
    assert exact.val_loss == other.val_loss  # of the same start
    assert loop.history[1].val_loss != pytest.approx(exact.val_loss, abs=1e-6)


def test_a_loss_that_is_no_number_ends_the_training(halves: tuple[Split, Split]) -> None:
    with pytest.raises(TrainingError, match=r"after epoch \d: start again with a lower --learning-rate and --force"):
        tuned(halves, learning_rate=1e30, layer_decay=1.0)


def test_from_any_saved_state_the_end_is_the_same(halves: tuple[Split, Split]) -> None:
    states: list[State] = []

    def loop(network: ResNet, save: bool) -> TuneLoop:
        keep = (lambda state: states.append(copy.deepcopy(state))) if save else (lambda _: None)
        return TuneLoop(network, "all", *halves, QUICK, seed=4, processes=CPU, save=keep, save_every_s=0.0)

    whole = small_network()
    finished = loop(whole, save=True).run()
    assert [(state["epoch"], state["step"]) for state in states][:5] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    for state in states[:: len(states) // 4]:
        other = small_network()
        with torch.no_grad():
            other.fc.weight.zero_()  # what was trained comes from the state
        again = loop(other, save=False).run(copy.deepcopy(state))
        assert again.history == finished.history
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in whole.state_dict().items())


SETTINGS = TrainSettings(
    weights="random", arch="resnet10", size=64, head=HeadSettings(epochs=20), tuning=QUICK, trainable="layer4", seed=3
)


@pytest.mark.parametrize("trainable", ["layer4", "all"])
def test_a_run_says_what_was_trained_and_leaves_no_state(films: Films, tmp_path: Path, trainable: str) -> None:
    settings = dataclasses.replace(SETTINGS, trainable=trainable)
    record = train.train(films, tmp_path / "run", settings, device="cpu")
    assert record.settings["trainable"] == trainable
    assert record.settings["tuning"]["layer_decay"] == 0.5
    assert record.result["images_per_s"] > 0
    assert not list((tmp_path / "run").glob("*unfinished*"))
    rows = (tmp_path / "run" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1].startswith("0,0.0,")  # the head alone, before the first step
    state = read_state_dict(tmp_path / "run" / "checkpoint.pth")
    assert list(state) == list(build("resnet10", 2).state_dict())


def test_an_unfinished_run_is_not_thrown_away_unasked(
    films: Films, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    base = ["--data", str(films.folder), "--run", str(run), "--weights", "random", "--arch", "resnet10", "--size", "64"]
    base += ["--trainable", "all", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cxr_training.train._write", die)
        assert run_command("train", base) == 1
    state = run / "unfinished.pth"
    before = state.read_bytes()
    assert run_command("train", base) == 2
    assert "go on with --resume, or give it up with --force" in capsys.readouterr().err
    assert run_command("train", [*base, "--resume", "--seed", "8"]) == 2
    assert "began with another backbone, set of settings:" in capsys.readouterr().err
    assert state.read_bytes() == before
    state.write_bytes(before[:1000])
    assert run_command("train", [*base, "--resume"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    state.write_bytes(before)
    assert run_command("train", [*base, "--resume"]) == 0
    assert not state.exists()


@pytest.mark.parametrize(
    ("basis", "named"),
    [
        ({"backbone": "b"}, "another backbone:"),
        ({"precision": "float16"}, "another precision:"),
        ({"version of torch": "1.0"}, "another version of torch:"),
        ({"precision": "float16", "list of films": "x"}, "another list of films, precision:"),
    ],
)
def test_a_state_of_another_basis_is_refused_by_name(tmp_path: Path, basis: dict[str, str], named: str) -> None:
    whole = {"backbone": "a", "precision": "float32", "version of torch": "2.0", "list of films": "f"}
    Unfinished(tmp_path, whole).save({"epoch": 1})
    assert Unfinished(tmp_path, whole).load() == {"epoch": 1}
    with pytest.raises(TrainingError, match=named):
        Unfinished(tmp_path, whole | basis).load()


def test_a_damaged_state_is_refused_in_one_line_whatever_the_damage(tmp_path: Path) -> None:
    unfinished = Unfinished(tmp_path, {"backbone": "a"})
    path = tmp_path / "unfinished.pth"
    unfinished.save({"epoch": 1, "weights": {"fc": torch.ones(20, 20)}})
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    errors: list[TrainingError] = []
    for _ in range(200):
        damaged = np.frombuffer(whole, dtype=np.uint8).copy()
        damaged[rng.integers(0, 700, 4)] = rng.integers(0, 256, 4)
        path.write_bytes(damaged.tobytes())
        try:
            unfinished.load()
        except TrainingError as error:
            errors.append(error)
    assert len(errors) > 150  # in the others the bytes of the damage are those that nothing reads
    assert all(len(str(error).splitlines()) == 1 for error in errors)
    torch.save([1, 2], path)
    with pytest.raises(TrainingError, match="holds no state of a training"):
        unfinished.load()


def test_random_weights_are_not_gone_on_with_as_imagenets(
    films: Films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun where the download failed, resumed where it would not."""
    settings = dataclasses.replace(SETTINGS, weights="imagenet", arch="resnet18", trainable="all", or_random=True)
    run = tmp_path / "run"

    def offline(arch: str) -> Any:
        raise TrainingError(f"no way to the weights of {arch}")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cxr_training.fit.weights._imagenet_state", offline)
        patch.setattr("cxr_training.train._write", die)
        with pytest.raises(KeyboardInterrupt):
            train.train(films, run, settings, device="cpu")
    torch.manual_seed(1)
    downloaded = build("resnet18", 1000).state_dict()
    monkeypatch.setattr("cxr_training.fit.weights._imagenet_state", lambda _: downloaded)
    with pytest.raises(TrainingError, match="began with another backbone"):
        train.train(films, run, settings, device="cpu", resume=True)


def test_options_that_would_not_be_used_are_refused(
    films: Films, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--data", str(films.folder), "--run", str(tmp_path / "run")]
    assert run_command("train", [*base, "--batch-size", "4", "--patience", "2"]) == 2
    assert "--batch-size, --patience: only with --trainable layer4 or all" in capsys.readouterr().err
    assert run_command("train", [*base, "--save-every", "4"]) == 2
    assert run_command("train", [*base, "--resume", "--force"]) == 2


def test_more_processes_than_films_in_a_step_are_refused(halves: tuple[Split, Split]) -> None:
    three = Processes(torch.device("cpu"), rank=0, count=3)
    with pytest.raises(TrainingError, match="3 processes share 2 films in a step"):
        TuneLoop(small_network(), "all", *halves, dataclasses.replace(QUICK, batch_size=2), seed=0, processes=three)
