"""The cache: each film and view once, the same under any order of work, never stale."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cxr.model.network import features, pool, trunk
from cxr.model.spec import Preprocessing
from cxr_training.data.records import Record, load_films
from cxr_training.errors import TrainingError
from cxr_training.fit.augment import Augmentation
from cxr_training.fit.features import CODE, LAYER3, FeatureCache, View
from tests.cxr.networks import SMALL, small_network
from tests.cxr_training.folders import write_manifest
from tests.test_architecture import ROOT, imports

CPU = torch.device("cpu")


@pytest.fixture
def records(tmp_path: Path) -> tuple[Record, ...]:
    return load_films(write_manifest(tmp_path / "data", 5)).of("train")


def count_films(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that go through the backbone from now on."""
    sizes: list[int] = []
    forward = cache.network.conv1.forward
    monkeypatch.setattr(cache.network.conv1, "forward", lambda x: (sizes.append(len(x)), forward(x))[1])
    return sizes


def test_features_are_the_pooled_layer4_of_each_film(tmp_path: Path, records: tuple[Record, ...]) -> None:
    network = small_network()
    got = FeatureCache(tmp_path / "cache", network, SMALL, CPU).get(records, View(), batch_size=4)
    with torch.inference_mode():
        expected = pool(features(network, torch.stack([View().tensor(record, SMALL) for record in records])))
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_a_film_goes_through_the_backbone_once_for_each_view(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    sizes = count_films(cache, monkeypatch)
    first = cache.get(records, View())
    again = cache.get(records, View())
    assert sum(sizes) == len(records)
    np.testing.assert_array_equal(first, again)
    cache.get(records, View(1))
    assert sum(sizes) == 2 * len(records)


def test_an_extraction_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FeatureCache(tmp_path / "other", small_network(), SMALL, CPU).get(records, View())
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    real = View.tensor
    seen: list[str] = []

    def stop_at_the_sixth(self: View, record: Record, preprocessing: Preprocessing) -> torch.Tensor:
        seen.append(record.name)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return real(self, record, preprocessing)

    with monkeypatch.context() as patch:
        patch.setattr(View, "tensor", stop_at_the_sixth)
        with pytest.raises(KeyboardInterrupt):
            cache.get(records, View(), batch_size=2)
    sizes = count_films(cache, monkeypatch)
    np.testing.assert_allclose(cache.get(records, View(), batch_size=2), whole, atol=1e-5)
    assert 0 < sum(sizes) < len(records)


def test_other_weights_preprocessing_films_or_views_never_meet_old_features(
    tmp_path: Path, records: tuple[Record, ...]
) -> None:
    folder = tmp_path / "cache"
    plain = FeatureCache(folder, small_network(), SMALL, CPU).get(records, View())
    others = [
        FeatureCache(folder, small_network(7), SMALL, CPU).get(records, View()),
        FeatureCache(folder, small_network(), Preprocessing(size=64, mean=(0, 0, 0), std=(1, 1, 1)), CPU).get(
            records, View()
        ),
        FeatureCache(folder, small_network(), SMALL, CPU).get(records[::-1], View()),
        FeatureCache(folder, small_network(), SMALL, CPU).get(records, View(1)),
        FeatureCache(folder, small_network(), SMALL, CPU).get(records, View(1, seed=5)),
        FeatureCache(folder, small_network(), SMALL, CPU).get(records, View(1, Augmentation(5))),
    ]
    assert len(list(folder.glob("*.npy"))) == 1 + len(others)
    assert all(np.abs(other - plain).max() > 1e-3 for other in others)


def test_the_head_does_not_change_the_features(tmp_path: Path, records: tuple[Record, ...]) -> None:
    network = small_network()
    FeatureCache(tmp_path, network, SMALL, CPU).get(records, View())
    with torch.no_grad():
        network.fc.weight.zero_()
    FeatureCache(tmp_path, network, SMALL, CPU).get(records, View())
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_an_augmented_view_of_a_film_does_not_depend_on_the_films_around_it(
    tmp_path: Path, records: tuple[Record, ...]
) -> None:
    cache, view = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU), View(2, seed=3)
    forward = cache.get(records, view, batch_size=4)
    backward = cache.get(records[::-1], view, batch_size=3)
    np.testing.assert_allclose(backward[::-1], forward, atol=1e-5)
    assert np.abs(cache.get(records, View(1, seed=3)) - forward).max() > 1e-3


def test_another_decoder_never_meets_old_features(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    cache.get(records, View())
    monkeypatch.setattr("cxr_training.fit.features._code_digest", lambda: "of another version")
    sizes = count_films(cache, monkeypatch)
    cache.get(records, View())
    assert sum(sizes) == len(records)


def test_everything_that_makes_features_is_in_their_key() -> None:
    """Follows the imports from where files are read, looked at and put through the network."""
    reached: set[str] = set()
    todo = {"cxr.films.decode", "cxr.model.preprocess", "cxr.model.network"}
    while todo:
        name = todo.pop()
        reached.add(name)
        path = ROOT / "handler" / Path(*name.split(".")).with_suffix(".py")
        todo |= {other for other in imports(path) if other.startswith("cxr.")} - reached
    assert reached <= set(CODE)
    assert {"cxr_training.fit.augment", "cxr_training.data.records", "cxr_training.fit.features"} <= set(CODE)


def test_two_trainings_that_begin_together_fill_one_file(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second makes its file while the first is at work: the first one's stays."""
    first, second = (FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU) for _ in range(2))
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: False if path.suffix == ".npy" else exists(path))
    got = first.get(records, View())
    again = second.get(records, View())
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert not np.isnan(got).any()
    np.testing.assert_array_equal(again, got)


def test_room_is_made_for_all_views_before_the_first_film_is_read(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = iter([10**12, 1000])
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=next(free)))
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    sizes = count_films(cache, monkeypatch)
    with pytest.raises(TrainingError, match="fewer --views"):
        cache.get_all([(records, View()), (records, View(1))])
    assert sizes == []


def test_a_batch_with_a_torn_row_is_worked_out_again_to_the_same_bytes(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    cache.get(records, View(), batch_size=4)
    (path,) = (tmp_path / "cache").glob("*.npy")
    whole = path.read_bytes()
    torn = np.lib.format.open_memmap(path, mode="r+")
    torn[5, 100:] = np.nan
    torn.flush()
    sizes = count_films(cache, monkeypatch)
    cache.get(records, View(), batch_size=4)
    assert sizes == [4]
    assert path.read_bytes() == whole


def test_what_is_changed_in_memory_does_not_reach_the_stored_features(
    tmp_path: Path, records: tuple[Record, ...]
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    before = np.array(cache.get(records, View()))
    cache.get(records, View())[:] = 0.0
    np.testing.assert_array_equal(cache.get(records, View()), before)


def test_the_whole_layer3_can_be_stored_too(tmp_path: Path, records: tuple[Record, ...]) -> None:
    network = small_network()
    got = FeatureCache(tmp_path / "cache", network, SMALL, CPU, LAYER3).get(records, View())
    with torch.inference_mode():
        expected = trunk(network, torch.stack([View().tensor(record, SMALL) for record in records]))
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)
    odd = Preprocessing(size=65)
    assert FeatureCache(tmp_path / "cache", network, odd, CPU, LAYER3).get(records, View()).shape == (
        len(records),
        *trunk(network, torch.zeros(1, 3, 65, 65)).shape[1:],
    )


def test_features_that_do_not_fit_on_the_disk_are_refused_before_anything_is_written(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TrainingError, match=r"10 films takes .* GB and .* free: take another --cache"):
        FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU).get(records, View())
    assert list((tmp_path / "cache").iterdir()) == []


def test_extraction_leaves_batchnorm_statistics_where_they_were(tmp_path: Path, records: tuple[Record, ...]) -> None:
    network = small_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    FeatureCache(tmp_path, network, SMALL, CPU).get(records, View())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
