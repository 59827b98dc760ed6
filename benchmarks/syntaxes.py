"""What a compressed DICOM film costs before the network sees it, in processor time beside one pass of the network."""

from __future__ import annotations

import importlib
import io
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate

from benchmarks.films import drawn_dicom
from benchmarks.host import Host, Tree
from benchmarks.result import Column, Figure, Result, Row, Table, ratio_of
from benchmarks.servers import BenchmarkError
from benchmarks.settings import SyntaxSettings
from cxr.films.decode import decode
from cxr.model.network import build, use_exact_float32
from cxr.model.preprocess import resize
from cxr.model.spec import DECODES, Preprocessing
from cxr_training.data.progress import progress_bar

_SIZE: Final = (2500, 2048)  # rows and columns
_QUALITY: Final = 90
_REPEATS: Final = 4  # of a film in a round: the system counts hundredths of a second
_SHARE: Final = "{:7.1%}"
_COLUMNS: Final = (
    Column("bytes", "{:11,.0f}", "bytes"),
    *(
        Column(f"{way}_{what}", form, head)
        for way in DECODES
        for what, form, head in (("ms", "{:9.1f}", way), ("share", _SHARE, "of pass"))
    ),
)


def benchmark_syntaxes(settings: SyntaxSettings) -> Result:
    """Decoding and resizing by each transfer syntax, whole and reduced, in turn with a pass of one film in float32.

    Processor time of this process and of all that it started, on one thread.
    """
    host, threads = Host.here(), torch.get_num_threads()
    torch.set_num_threads(1)
    use_exact_float32()
    network, side = build(settings.arch, 2).eval(), Preprocessing().size
    tensor = torch.rand(1, 3, side, side)
    films, missing = _films()
    steps: dict[tuple[str, str], Callable[[], object]] = {
        (name, way): partial(_read, data, way) for name, data in films.items() for way in DECODES
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    passes: list[float] = []
    try:
        with torch.inference_mode():
            network(tensor)
            for step in steps.values():
                step()  # warm
            for _ in progress_bar(range(settings.rounds), "syntaxes", "round"):
                passes.append(_cpu_ms(partial(network, tensor)))
                for key, step in steps.items():
                    times[key].append(_cpu_ms(step))
    finally:
        torch.set_num_threads(threads)
    rows = [
        Row(name, _figures(len(data), {way: times[name, way] for way in DECODES}, passes))
        for name, data in films.items()
    ]
    rows += [Row(name, {}, f"not timed: {why}") for name, why in missing.items()]
    title = (
        f"processor time of decoding and resizing a film of {_SIZE[0]} x {_SIZE[1]} pixels, ms and share of a pass of "
        f"{settings.arch} in float32 ({statistics.median(passes):.0f} ms), medians of {settings.rounds} rounds in turn"
    )
    return Result(
        "syntaxes", settings.conditions(), host, title, [Table("syntaxes", _COLUMNS, rows, label="syntax", width=28)]
    )


def _read(data: bytes, way: str) -> object:
    preprocessing = Preprocessing(decode=way)
    return resize(decode(data, preprocessing.least_side).pixels, preprocessing)


def _cpu_ms(step: Callable[[], object]) -> float:
    tree = Tree(os.getpid())
    before = tree.cpu_s()
    for _ in range(_REPEATS):
        step()
    return (tree.cpu_s() - before) * 1000 / _REPEATS


def _figures(size: int, times: dict[str, list[float]], passes: list[float]) -> dict[str, Figure]:
    figures = {"bytes": Figure(size, "B")}
    for way, milliseconds in times.items():
        figures[f"{way}_ms"] = Figure.of(milliseconds, "ms")
        figures[f"{way}_share"] = ratio_of(milliseconds, passes)
    return figures


def _films() -> tuple[dict[str, bytes], dict[str, str]]:
    """The film in each transfer syntax by name, and why others are missing: what they lack an encoder for."""
    films: dict[str, bytes] = {}
    missing: dict[str, str] = {}
    plain = drawn_dicom(_SIZE)
    for name, encode in _encoders():
        try:
            films[name] = encode(plain)
        except ImportError as error:
            missing[name] = f"{error}; pip install imagecodecs"
    return films, missing


def _encoders() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    yield "uncompressed", lambda plain: plain
    yield "RLE", partial(_by_pydicom, syntax=uid.RLELossless)
    yield "JPEG baseline, 8 bits", partial(_in_stream, syntax=uid.JPEGBaseline8Bit, encode=_jpeg, bits=8)
    yield "JPEG extended, 12 bits", partial(_in_stream, syntax=uid.JPEGExtended12Bit, encode=_jpeg_12)
    yield "JPEG lossless", partial(_by_gdcm, syntax=uid.JPEGLossless)
    yield "JPEG lossless, SV1", partial(_by_gdcm, syntax=uid.JPEGLosslessSV1)
    yield "JPEG-LS", partial(_by_pydicom, syntax=uid.JPEGLSLossless)
    yield "JPEG-LS, near-lossless", partial(_by_pydicom, syntax=uid.JPEGLSNearLossless, jls_error=3)
    yield "JPEG 2000, lossless", partial(_by_pydicom, syntax=uid.JPEG2000Lossless)
    yield "JPEG 2000, a tenth", partial(_by_pydicom, syntax=uid.JPEG2000, j2k_cr=[10])
    yield "HTJ2K, lossless", partial(_in_stream, syntax=uid.HTJ2KLossless, encode=_htj2k)


def _by_pydicom(plain: bytes, syntax: uid.UID, **options: Any) -> bytes:
    dataset = dcmread(io.BytesIO(plain))
    dataset.compress(syntax, generate_instance_uid=False, **options)
    return _bytes_of(dataset)


def _by_gdcm(plain: bytes, syntax: uid.UID) -> bytes:
    gdcm: Any = importlib.import_module("gdcm")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "plain.dcm"), Path(folder, "coded.dcm")
        source.write_bytes(plain)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(source))
        reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        if not change.Change():
            raise BenchmarkError(f"GDCM does not encode {syntax.name}")
        writer.SetImage(change.GetOutput())
        writer.Write()
        return target.read_bytes()


def _in_stream(
    plain: bytes, syntax: uid.UID, encode: Callable[[npt.NDArray[np.uint16]], bytes], bits: int = 12
) -> bytes:
    dataset = dcmread(io.BytesIO(plain))
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    if bits == 8:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.WindowCenter, dataset.WindowWidth = 128, 256
    return _with_stream(dataset, syntax, encode(stored))


def _with_stream(dataset: Dataset, syntax: uid.UID, stream: bytes) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].VR = "OB"
    return _bytes_of(dataset)


def _bytes_of(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _jpeg(stored: npt.NDArray[np.uint16]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((stored >> 4).astype(np.uint8)).save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()


def _jpeg_12(stored: npt.NDArray[np.uint16]) -> bytes:
    codecs = importlib.import_module("imagecodecs")
    return bytes(codecs.jpeg_encode(stored, level=_QUALITY, bitspersample=12))


def _htj2k(stored: npt.NDArray[np.uint16]) -> bytes:
    return bytes(importlib.import_module("imagecodecs").htj2k_encode(stored, reversible=True))
