"""The cache: each film and view once, the same under any order of work, never stale."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.models.resnet import ResNet

from cxr.model.network import build, features, folded, pool, trunk
from cxr.model.spec import Preprocessing
from cxr_training.data.records import Record, load_films
from cxr_training.errors import TrainingError
from cxr_training.fit.extraction import LAYER3, Extractor, OpenVinoExtractor, TorchExtractor, extractor_of
from cxr_training.fit.feature_rows import FeatureRows
from cxr_training.fit.features import ExtractorOf, FeatureCache, View
from cxr_training.fit.processes import Processes
from cxr_training.fit.settings import Augmentation
from tests.cxr.networks import SMALL, small_network
from tests.cxr_training.folders import write_manifest
from tests.films import dicom, encoded, film

CPU = torch.device("cpu")
# Every 128th feature of three films, plain and augmented: FEATURES_VERSION 1
OF_THIS_VERSION = np.array(
    [
        [
            [0.007065, 0.002866, 0.011185, 0.003151],
            [0.016332, 0.002252, 0.013327, 0.016351],
            [0.019689, 0.000428, 0.031215, 0.009865],
        ],
        [
            [0.047923, 0.033996, 0.034449, 0.058554],
            [0.015122, 0.010613, 0.024002, 0.017815],
            [0.023492, 0.001759, 0.041577, 0.014062],
        ],
    ]
)


@pytest.fixture
def records(tmp_path: Path) -> tuple[Record, ...]:
    return load_films(write_manifest(tmp_path / "data", 5)).of("train")


def by_torch(network: ResNet, layer: str, _: Preprocessing, device: torch.device) -> Extractor:
    return TorchExtractor(folded(network).to(device), layer, device)


def count_films(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many films, empty ones left out, are in each batch that goes through the backbone from now on."""
    sizes: list[int] = []
    compute = cache.extractor.compute

    def counted(films: torch.Tensor) -> npt.NDArray[np.float32]:
        assert cache.extractor.one_by_one or len(films) == cache.batch_size
        sizes.append(int((films != 0).flatten(1).any(dim=1).sum()))
        return compute(films)

    monkeypatch.setattr(cache.extractor, "compute", counted)
    return sizes


def tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.rows"))


def rows_of(path: Path, shape: tuple[int, ...]) -> np.memmap:
    return np.memmap(path, np.float32, "r+").reshape(-1, *shape)


def test_features_are_the_pooled_layer4_of_each_film(tmp_path: Path, records: tuple[Record, ...]) -> None:
    network = small_network()
    got = FeatureCache(tmp_path / "cache", network, SMALL, CPU, batch_size=4).get(records, View())
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
    whole = FeatureCache(tmp_path / "other", small_network(), SMALL, CPU, batch_size=2).get(records, View())
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU, batch_size=2)
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
            cache.get(records, View())
    sizes = count_films(cache, monkeypatch)
    np.testing.assert_array_equal(cache.get(records, View()), whole)
    assert 0 < sum(sizes) < len(records)


def test_other_weights_preprocessing_or_views_never_meet_old_features(
    tmp_path: Path, records: tuple[Record, ...]
) -> None:
    folder = tmp_path / "cache"
    plain = FeatureCache(folder, small_network(), SMALL, CPU).get(records, View())
    others = [
        FeatureCache(folder, small_network(7), SMALL, CPU).get(records, View()),
        FeatureCache(folder, small_network(), Preprocessing(size=64, mean=(0, 0, 0), std=(1, 1, 1)), CPU).get(
            records, View()
        ),
        FeatureCache(folder, small_network(), SMALL, CPU).get(records, View(1)),
        FeatureCache(folder, small_network(), SMALL, CPU).get(records, View(1, seed=5)),
        FeatureCache(folder, small_network(), SMALL, CPU).get(records, View(1, Augmentation(5))),
    ]
    assert len(tables(folder)) == 1 + len(others)
    assert all(np.abs(other - plain).max() > 1e-3 for other in others)


def test_the_head_does_not_change_the_features(tmp_path: Path, records: tuple[Record, ...]) -> None:
    network = small_network()
    FeatureCache(tmp_path, network, SMALL, CPU).get(records, View())
    with torch.no_grad():
        network.fc.weight.zero_()
    FeatureCache(tmp_path, network, SMALL, CPU).get(records, View())
    assert len(tables(tmp_path)) == 1


def test_an_augmented_view_of_a_film_does_not_depend_on_the_films_around_it(
    tmp_path: Path, records: tuple[Record, ...]
) -> None:
    cache, view = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU), View(2, seed=3)
    forward = cache.get(records, view)
    for size in (16, 3):
        other = FeatureCache(tmp_path / f"other-{size}", small_network(), SMALL, CPU, batch_size=size)
        np.testing.assert_allclose(other.get(records[::-1], view)[::-1], forward, atol=1e-5)
    assert np.abs(cache.get(records, View(1, seed=3)) - forward).max() > 1e-3


@pytest.mark.parametrize("extractor", [by_torch, extractor_of])
def test_the_bytes_of_a_films_features_do_not_depend_on_the_films_beside_it(
    extractor: ExtractorOf, tmp_path: Path
) -> None:
    """Every film alone, at every place of a batch, and among others: the same to the last bit."""
    records = load_films(write_manifest(tmp_path / "data", 10)).of("train")
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU, LAYER3, batch_size=8, extractor=extractor)
    tensors = [View().tensor(record, SMALL) for record in records]
    alone = [cache.compute([tensor])[0] for tensor in tensors]
    for shift in range(8):
        order = np.roll(np.arange(len(records)), shift)[:8]
        for one, row in zip(order, cache.compute([tensors[i] for i in order]), strict=True):
            np.testing.assert_array_equal(row, alone[one])


def test_one_film_more_costs_one_films_work_and_leaves_the_others_as_they_were(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU, LAYER3)
    before = cache.get(records[:-1], View())
    sizes = count_films(cache, monkeypatch)
    order = [records[-1], *records[:-1][::-1]]
    (lazy,) = cache.get_all([(order, View())])
    assert sizes == [1]
    assert len(lazy) == len(records)
    np.testing.assert_array_equal(lazy.array()[:0:-1], before)
    np.testing.assert_array_equal(lazy[3], before[len(before) - 3])
    np.testing.assert_array_equal(lazy[1:4], before[::-1][:3])
    whole = FeatureCache(tmp_path / "other", small_network(), SMALL, CPU, LAYER3).get(order, View())
    np.testing.assert_array_equal(lazy.array(), whole)


def test_features_go_with_the_film_and_not_with_its_name_label_or_split(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    before = cache.get(records, View())
    sizes = count_films(cache, monkeypatch)
    others = [replace(record, name="other", label="NORMAL", split="val", patient_id="new") for record in records]
    np.testing.assert_array_equal(cache.get(others, View()), before)
    assert sizes == []
    twice = cache.get([records[2], records[0], records[2]], View())
    np.testing.assert_array_equal(twice, before[[2, 0, 2]])


@pytest.mark.parametrize("changed", ["FEATURES_VERSION", "version"])
def test_another_version_of_the_code_or_of_a_library_never_meets_old_features(
    changed: str, tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    cache.get(records, View())
    other = -1 if changed == "FEATURES_VERSION" else lambda _: "0.0"
    monkeypatch.setattr(f"cxr_training.fit.features.{changed}", other)
    sizes = count_films(cache, monkeypatch)
    cache.get(records, View())
    assert sum(sizes) == len(records)


def test_features_of_three_films_are_those_of_this_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PNG, a JPEG that is decoded reduced and a DICOM file, plain and augmented, through weights from a formula."""
    deep = film(3, 300, 260).astype(np.uint16) * 16
    files = {
        "a.png": encoded(film(1, 200, 180)),
        "b.jpg": encoded(film(2, 600, 500), "JPEG", quality=90),
        "c.dcm": dicom(deep, WindowCenter=1800, WindowWidth=3000),
    }
    records = []
    for number, (name, data) in enumerate(files.items()):
        (tmp_path / name).write_bytes(data)
        records.append(Record(tmp_path / name, name, "NORMAL", name, "train", f"{number:016x}".ljust(64, "0")))
    monkeypatch.setattr(Record, "data", lambda record: record.file.read_bytes())  # the digests are made up
    network = build("resnet10", 2)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            if parameter.ndim > 1:
                wave = torch.cos(torch.arange(parameter.numel()) * (1.0 + 0.37 * number)).reshape(parameter.shape)
                parameter.copy_(wave * (2.0 / parameter[0].numel()) ** 0.5)
    cache = FeatureCache(tmp_path / "cache", network, Preprocessing(size=64, decode="reduced"), CPU)
    found = np.stack([cache.get(records, view)[:, ::128] for view in (View(), View(1, seed=3))])
    np.testing.assert_allclose(
        found,
        OF_THIS_VERSION,
        rtol=1e-3,
        atol=1e-3 * np.abs(OF_THIS_VERSION).max(),
        err_msg="a film has other features than before: raise FEATURES_VERSION, and keep the new values here",
    )


def test_two_trainings_that_begin_together_fill_one_table(tmp_path: Path, records: tuple[Record, ...]) -> None:
    """The second opens the table while the first is at work, and adds a film of its own."""
    first, second = (FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU) for _ in range(2))
    early, late = first.filling(records[:-1], View()), second.filling(records, View())
    assert (len(early.missing), len(late.missing)) == (len(records) - 1, len(records))
    for filling in (early, late):
        for record in filling.missing:
            filling.add(record, View().tensor(record, SMALL))
    got, again = early.finish().array(), late.finish().array()
    assert len(tables(tmp_path / "cache")) == 1
    assert not np.isnan(again).any()
    np.testing.assert_array_equal(again[:-1], got)


def test_trainings_that_add_films_at_the_same_time_lose_none(tmp_path: Path) -> None:
    """Forty threads, each with some films of its own and some that others have too."""
    films = [f"{i:064x}" for i in range(120)]
    table = FeatureRows(tmp_path / "features", (3,))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: table.add(films[2 * i : 2 * i + 40], "a test"), range(40)))
    stored = table.stored(films[:118])
    assert sorted(stored.places.tolist()) == list(range(118))
    assert np.isnan(stored.array()).all()
    assert (tmp_path / "features.rows").stat().st_size == 118 * 12


def test_what_a_kill_or_a_damaged_disk_left_is_mended(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    whole = cache.get(records, View())
    (rows,) = tables(tmp_path / "cache")
    films = rows.with_suffix(".films")
    sizes = count_films(cache, monkeypatch)

    with films.open("ab") as stream:  # killed while it wrote the name of a film, its row being there already
        stream.write(b"half a name")
    with rows.open("ab") as stream:
        stream.write(bytes(1000))
    np.testing.assert_array_equal(cache.get(records, View()), whole)
    assert sizes == []

    os.truncate(rows, whole.nbytes // 2 - 8)
    np.testing.assert_array_equal(cache.get(records, View()), whole)
    assert sum(sizes) == len(records) // 2 + 1

    rows.unlink()
    np.testing.assert_array_equal(cache.get(records, View()), whole)
    films.unlink()
    np.testing.assert_array_equal(cache.get(records, View()), whole)
    assert sum(sizes) == len(records) // 2 + 1 + 2 * len(records)


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


def test_a_torn_row_is_worked_out_again_to_the_same_bytes(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU, batch_size=4)
    cache.get(records, View())
    (path,) = tables(tmp_path / "cache")
    whole = path.read_bytes()
    torn = rows_of(path, (512,))
    torn[5, 100:] = np.nan
    torn.flush()
    sizes = count_films(cache, monkeypatch)
    cache.get(records, View())
    assert sizes == [1]
    assert path.read_bytes() == whole


@dataclass(frozen=True)
class NotWaiting(Processes):
    """One of several processes, all of which are this one."""

    def wait(self) -> None:
        """They take turns by themselves."""


def test_processes_that_see_other_rows_missing_still_do_all_of_them_together(
    tmp_path: Path, records: tuple[Record, ...]
) -> None:
    """Another training fills rows between the looks of the two."""
    folder, network = tmp_path / "cache", small_network()
    first, second = (FeatureCache(folder, network, SMALL, NotWaiting(CPU, rank, 2)) for rank in (0, 1))
    fillings = [first.filling(records, View())]
    FeatureCache(folder, network, SMALL, CPU).get(records[:3], View())
    fillings.append(second.filling(records, View()))
    assert [len(filling.missing) for filling in fillings] == [5, 4]
    for filling in fillings:
        for record in filling.missing:
            filling.add(record, View().tensor(record, SMALL))
    shared = [filling.finish().array() for filling in fillings][1]
    np.testing.assert_array_equal(shared, FeatureCache(tmp_path, network, SMALL, CPU).get(records, View()))


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
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-3, atol=1e-4)  # float16 keeps eleven bits
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
    assert [path.stat().st_size for path in (tmp_path / "cache").iterdir()] == [0]  # the lock, a list without films


def test_extraction_leaves_batchnorm_statistics_where_they_were(tmp_path: Path, records: tuple[Record, ...]) -> None:
    network = small_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    FeatureCache(tmp_path, network, SMALL, CPU).get(records, View())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("layer", ["layer3", "layer4"])
@pytest.mark.parametrize("size", [64, 65])
def test_openvino_and_torch_give_the_same_features_to_rounding(layer: str, size: int) -> None:
    network, preprocessing = small_network(), Preprocessing(size=size)
    films = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    faster = extractor_of(network, layer, preprocessing, CPU)
    assert isinstance(faster, OpenVinoExtractor)
    expected = by_torch(network, layer, preprocessing, CPU).compute(films)
    assert faster.compute(films).shape == expected.shape
    np.testing.assert_allclose(faster.compute(films), expected, atol=1e-5 * np.abs(expected).max())


def test_a_mirrored_view_has_the_features_of_the_mirrored_film(
    tmp_path: Path, records: tuple[Record, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path / "cache", small_network(), SMALL, CPU)
    mirrored = cache.get(records, View(mirrored=True))
    assert np.abs(mirrored - cache.get(records, View())).max() > 1e-3
    read = Record.read
    monkeypatch.setattr(Record, "read", lambda self, least: np.ascontiguousarray(read(self, least)[:, ::-1]))
    other = FeatureCache(tmp_path / "other", small_network(), SMALL, CPU)
    np.testing.assert_array_equal(other.get(records, View()), mirrored)


def test_where_openvino_gives_other_features_torch_makes_them_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = OpenVinoExtractor.compute
    monkeypatch.setattr(OpenVinoExtractor, "compute", lambda self, films: real(self, films) * np.float32(1.001))
    assert isinstance(extractor_of(small_network(), "layer4", SMALL, CPU), TorchExtractor)
    assert "features by torch: those of OpenVINO differ by up to 0.001 of the largest here" in capsys.readouterr().err
    monkeypatch.setattr(OpenVinoExtractor, "compute", lambda self, films: real(self, films) * np.float32(np.nan))
    assert isinstance(extractor_of(small_network(), "layer4", SMALL, CPU), TorchExtractor)


def test_without_openvino_torch_makes_the_features_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cxr_training.fit.extraction.find_spec", lambda _: None)
    assert isinstance(extractor_of(small_network(), "layer4", SMALL, CPU), TorchExtractor)
    assert "is not installed" in capsys.readouterr().err
