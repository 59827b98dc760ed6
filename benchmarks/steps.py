"""The steps of an answer, each beside other ways to do it: reading a film, the network, the heat map."""

from __future__ import annotations

import importlib
import io
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from pydicom import dcmread

from benchmarks.films import DECODED, grey_films
from benchmarks.host import Host
from benchmarks.peer_handler import tutorial_steps
from benchmarks.result import Column, Figure, Result, Row, Table, ratio_of
from benchmarks.servers import BenchmarkError
from benchmarks.settings import CamSettings, DecodeSettings, RawSettings
from cxr.engines.load import Engine, load_engine
from cxr.errors import ModelError
from cxr.films.decode import decode
from cxr.model.cam import class_maps, logits_of
from cxr.model.network import build, features, pool, use_exact_float32
from cxr.model.parity import ENGINES, REFERENCE
from cxr.model.preprocess import to_tensor
from cxr.model.spec import DECODES, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from cxr.predict import Predictor, resolve_device
from cxr_training.data.progress import progress_bar

CPU: Final = torch.device("cpu")


def in_turn(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: torch.device = CPU, name: str = "timing"
) -> dict[str, list[float]]:
    """Milliseconds of each way in each round; the ways take turns, so that what slows the machine down slows all."""
    wait: Callable[[], object] = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in progress_bar(range(rounds), name, "round"):
        for way, step in ways.items():
            wait()
            start = time.perf_counter()
            step()
            wait()
            times[way].append((time.perf_counter() - start) * 1000)
    return times


_ENGINES: Final = (
    Column("forward_ms", "{:10.3f}", "ms"),
    Column("images_per_s", "{:10.2f}", "images/s"),
    Column("speedup", "{:8.2f}", "speedup"),
)


def benchmark_raw(settings: RawSettings) -> Result:
    """A pass by every engine that runs here, the heat maps and, for comparison, the plain head.

    The speedup of an engine is that over the reference, and the maps are those of the reference's feature maps.
    """
    host, device, run = Host.here(), resolve_device(settings.device), settings.run
    arch: str = settings.arch
    if run is None:
        network, preprocessing = build(arch, 2).to(device), Preprocessing()
    else:
        model = Predictor.load(run, str(device))
        arch, network, preprocessing = model.spec.arch, model.network, model.spec.preprocessing
    engines, missing = _engines(network, preprocessing, device, run)
    films = torch.from_numpy(grey_films(settings.batch, preprocessing.size))
    head = network.fc
    steps: dict[str, Callable[[], object]] = {name: partial(_pass, one, films) for name, one in engines.items()}
    with torch.inference_mode():
        for step in steps.values():
            step()  # warm
        feature_map = torch.cat(_pass(engines[REFERENCE], films))
        steps["maps and logits"] = lambda: logits_of(class_maps(feature_map, head.weight), head.bias).cpu()
        steps["plain head"] = lambda: head(pool(feature_map)).cpu()
        times = in_turn(steps, settings.repeats, device)
    rows = [Row(name, _engine_figures(times[name], times[REFERENCE], settings.batch)) for name in engines]
    rows += [Row(name, {}, f"not timed: {why}") for name, why in missing.items()]
    rows += [Row(name, {"forward_ms": Figure.of(times[name], "ms")}) for name in times if name not in engines]
    share = {"share": ratio_of(times["maps and logits"], times[REFERENCE])}
    threads = torch.get_num_threads()
    return Result(
        "raw",
        settings.conditions() | {"arch": arch, "device": str(device), "threads": threads},
        host,
        f"{arch}, batch {settings.batch}, {threads} threads, median of {settings.repeats} rounds",
        [
            Table("engines", _ENGINES, rows, label="engine", width=20),
            Table("share", [Column("share", "{:.4%}")], [Row("heat maps / reference's pass", share)]),
        ],
    )


def _engines(
    network: Any, preprocessing: Preprocessing, device: torch.device, run: Path | None
) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines for a device, and why others of it are not timed."""
    engines: dict[str, Engine] = {}
    missing: dict[str, str] = {}
    for name, kind in ENGINES.items():
        if device.type not in kind.devices:
            continue
        try:
            engines[name] = load_engine(name, network, preprocessing, device, run)
        except ModelError as error:
            missing[name] = str(error)
    return engines, missing


def _pass(engine: Engine, films: torch.Tensor) -> list[torch.Tensor]:
    """The feature maps of all films, as many at once as the engine takes, as `Predictor` does it."""
    most = engine.max_batch
    return [engine.features(films[start : start + most]) for start in range(0, len(films), most)]


def _engine_figures(times: list[float], reference: list[float], batch: int) -> dict[str, Figure]:
    return {
        "forward_ms": Figure.of(times, "ms"),
        "images_per_s": Figure.of((1000 * batch / ms for ms in times), "1/s"),
        "speedup": ratio_of(reference, times),
    }


def benchmark_cam(settings: CamSettings) -> Result:
    """A plain classification of one film, one with our map and one with grad-cam's GradCAM, by torch in float32.

    What our map adds is far below what a pass varies by, and is therefore timed alone as well.
    """
    try:
        grad_cam = importlib.import_module("pytorch_grad_cam")
        targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    except ImportError as error:
        raise BenchmarkError(f"grad-cam is not installed ({error}): pip install grad-cam") from error
    host, device = Host.here(), resolve_device(settings.device)
    use_exact_float32()
    network: Any = build(settings.arch, 2).to(device)
    side = Preprocessing().size
    film = torch.rand(1, 3, side, side, device=device)
    inference = torch.inference_mode()

    @inference
    def map_of(feature_map: torch.Tensor) -> Any:
        maps = class_maps(feature_map, network.fc.weight)
        logits_of(maps, network.fc.bias).cpu()
        return maps.cpu()

    with grad_cam.GradCAM(model=network, target_layers=[network.layer4[-1]]) as explain:
        ways: dict[str, Callable[[], Any]] = {
            "classification": inference(lambda: network(film).cpu()),
            "with our map": inference(lambda: map_of(features(network, film))),
            "with gradcam": lambda: explain(input_tensor=film, targets=[targets.ClassifierOutputTarget(1)]),
        }
        shapes = {name: list(way().shape[-2:]) for name, way in ways.items()}  # and warm
        feature_map = inference(features)(network, film)
        times = in_turn(ways | {"our map alone": lambda: map_of(feature_map)}, settings.rounds, device)

    def ratio(above: str, below: str) -> dict[str, Figure]:
        return {"ratio": ratio_of(times[above], times[below])}

    milliseconds = [Row(name, {"ms": Figure.of(values, "ms")}) for name, values in times.items()]
    passes = [
        Row("GradCAM / classification", ratio("with gradcam", "classification")),
        Row("GradCAM / ours", ratio("with gradcam", "with our map")),
    ]
    share = [Row("our map / classification", ratio("our map alone", "classification"))]
    threads = torch.get_num_threads()
    return Result(
        "cam",
        settings.conditions() | {"device": str(device), "threads": threads, "shapes": shapes},
        host,
        f"{settings.arch} by torch in float32 on {device}, {threads} threads, one film, medians of {settings.rounds} "
        "rounds in turn, ms",
        [
            Table("times", [Column("ms", "{:10.3f}")], milliseconds, width=24),
            Table("passes", [Column("ratio", "{:9.2f}")], passes, width=24),
            Table("share", [Column("ratio", "{:10.4%}")], share, width=24),
        ],
    )


_DECODED: Final = (
    Column("tutorial_ms", "{:9.2f}", "tutorial"),
    Column("exact_ms", "{:8.2f}", "exact"),
    Column("exact_ratio", " {:5.2f} ({:.2f} to {:.2f})   ", " times as fast"),
    Column("reduced_ms", "{:8.2f}", "reduced"),
    Column("reduced_ratio", " {:5.2f} ({:.2f} to {:.2f})", " times as fast"),
)


def benchmark_decode(settings: DecodeSettings) -> Result:
    """Each kind of film by the well-known tutorial's way and by ours, and how many times as fast ours are."""
    host, threads = Host.here(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_decode_row(kind, make(0), settings.rounds) for kind, make in DECODED.items()]
    finally:
        torch.set_num_threads(threads)
    title = f"from bytes to tensor on one thread, medians of {settings.rounds} rounds in turn, ms"
    return Result("decode", settings.conditions(), host, title, [Table("films", _DECODED, rows, width=20)])


def _decode_row(kind: str, data: bytes, rounds: int) -> Row:
    ways: dict[str, Callable[[], object]] = {"tutorial": partial(tutorial_tensor, data)}
    ways |= {way: partial(our_tensor, data, way) for way in DECODES}
    for way in ways.values():
        way()  # warm
    times = in_turn(ways, rounds, name=kind)
    figures = {"bytes": Figure(len(data), "B")} | {f"{way}_ms": Figure.of(times[way], "ms") for way in ways}
    return Row(kind, figures | {f"{way}_ratio": ratio_of(times["tutorial"], times[way]) for way in DECODES})


def tutorial_tensor(data: bytes) -> torch.Tensor:
    """A film as the tutorial's server reads it: colour, resized as a picture, normalised: (3, 224, 224).

    It has no DICOM; such a film is read by pydicom, windowed by its extremes and then treated as a picture.
    """
    if data[128:132] == b"DICM":
        stored = dcmread(io.BytesIO(data)).pixel_array.astype(np.float32)
        low, high = stored.min(), stored.max()
        picture = Image.fromarray(((stored - low) / max(high - low, 1) * 255).astype(np.uint8))
    else:
        picture = Image.open(io.BytesIO(data))
    steps = tutorial_steps(224, list(IMAGENET_MEAN), list(IMAGENET_STD))
    tensor: torch.Tensor = steps(picture.convert("RGB"))
    return tensor


def our_tensor(data: bytes, decode_as: str) -> torch.Tensor:
    """A film as it is served, checked, grey, resized, normalised; `decode_as` is one of `cxr.model.spec.DECODES`."""
    preprocessing = Preprocessing(decode=decode_as)
    return to_tensor(decode(data, preprocessing.least_side).pixels, preprocessing)
