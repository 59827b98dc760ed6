"""Decoders that a damaged stream can bring down, in a process of their own.

GDCM 3.2 ends its process where one of its assertions fails, prints, and goes on after damage; the CharLS of pyjpegls
1.5 can take many seconds over 3 kB; OpenJPEG 2.5 takes gigabytes for a film that 1 kB cuts into precincts of one pixel.
The other process costs about 0.1 s. This file is its program too, so it imports nothing of ours.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any, Final

_SECONDS: Final = 3  # of processor time, and more for large films
_PIXELS_A_SECOND: Final = 3_000_000  # the libraries decode several times as many
_WALL_FACTOR: Final = 2.0  # other processes want the processors too
_MEMORY: Final = 1 << 30  # of address space, which libraries take too
_MEMORY_A_PIXEL: Final = 40
# What libjpeg says where a stream ends early or holds what is no code; it then makes up the rest of the film.
_DAMAGE: Final = (b"remature end", b"bad Huffman code")
_KEPT: Final[list[Any]] = []  # GDCM 3.2 aborts where Python frees its objects in the order of the names


def is_installed(library: str) -> bool:
    """Whether a library, ``gdcm``, ``_CharLS`` or ``_openjpeg``, is installed."""
    return importlib.util.find_spec(library) is not None


def decode_in_sandbox(library: str, stream: bytes, width: int, height: int, bits: int, components: int = 1) -> bytes:
    """The values of a stream, each in one byte where `bits` is at most 8, or else in two, low byte first.

    Parameters
    ----------
    library
        ``gdcm`` for JPEG; ``_CharLS``, of pyjpegls, for JPEG-LS; ``_openjpeg``, of pylibjpeg-openjpeg, for JPEG 2000.
    stream
        A stream that announces `width`, `height`, `bits` and `components`; those of a pixel come one after another.

    Raises
    ------
    ValueError
        The library fails on the stream, or says it is damaged.
    TimeoutError
        The machine is so busy that the process did not get its time.
    MemoryError
        The system cannot start a process, or killed it.
    """
    found = importlib.util.find_spec(library)
    if found is None or found.origin is None:
        raise ValueError(f"{library} is not installed")
    folder = str(Path(found.origin).parent)
    seconds = _SECONDS + width * height * components // _PIXELS_A_SECOND
    memory = _MEMORY + width * height * components * _MEMORY_A_PIXEL
    numbers = [str(number) for number in (width, height, bits, components, seconds, memory)]
    command = [sys.executable, "-I", __file__, library, folder, *numbers]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # numpy's threads reserve memory of the limit
    try:
        done = subprocess.run(
            command, input=stream, capture_output=True, timeout=seconds * _WALL_FACTOR, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"no answer within {error.timeout:.0f} s") from error
    except OSError as error:
        raise MemoryError("no process could be started") from error
    if done.returncode == -signal.SIGKILL:
        raise MemoryError("the process was killed")
    if done.returncode or any(message in done.stderr for message in _DAMAGE):
        raise ValueError(f"{library} ended with {done.returncode}")
    return done.stdout


def _through_charls(stream: bytes, width: int, height: int, components: int) -> bytes:
    charls = importlib.import_module("_CharLS")
    header = charls.read_header(stream)
    if (header["width"], header["height"], header["components"]) != (width, height, components):
        raise ValueError("another size than announced")  # an LSE segment can change it: ITU-T T.870 C.2.4.1.4
    pixels = bytes(charls._decode(stream))
    if components == 1 or header["interleave_mode"] != 0:
        return pixels
    planes = array("B" if header["bits_per_sample"] <= 8 else "H", pixels)
    mixed, size = array(planes.typecode, bytes(len(pixels))), len(planes) // components
    for place in range(components):
        mixed[place::components] = planes[place * size : (place + 1) * size]
    return mixed.tobytes()


def _through_openjpeg(stream: bytes) -> bytes:
    code, pixels = importlib.import_module("_openjpeg").decode(io.BytesIO(stream), 0, as_array=False)
    if code:
        raise ValueError(f"error {code}")
    return bytes(pixels)


def _through_gdcm(stream: bytes, width: int, height: int, bits: int, components: int) -> bytes:
    gdcm: Any = importlib.import_module("gdcm")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((width, height, 1))
    image.SetDataElement(element)
    interpretation = gdcm.PhotometricInterpretation
    kind = interpretation.MONOCHROME2 if components == 1 else interpretation.RGB
    image.SetPhotometricInterpretation(interpretation(kind))
    # The process, lossless or not, is read from the stream. It aborts where bits stored and allocated differ.
    container = 8 if bits <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(components, container, container, container - 1, 0))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14))
    change = gdcm.ImageChangeTransferSyntax()  # Image.GetBuffer would not tell of a failure
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    change.SetInput(image)
    if not change.Change():
        raise ValueError("not decoded")
    _KEPT.extend((fragments, image, change))
    pixels: str = change.GetOutput().GetDataElement().GetByteValue().GetBuffer()
    return pixels.encode("utf-8", "surrogateescape")


def _set_limits(seconds: int, memory: int) -> None:
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # Windows has none; the time limit outside holds
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the film


def _main() -> None:
    library, folder = sys.argv[1:3]
    width, height, bits, components, seconds, memory = (int(number) for number in sys.argv[3:])
    answer = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no pixel
    _set_limits(seconds, memory)
    sys.path.append(folder)
    stream = sys.stdin.buffer.read()
    with os.fdopen(answer, "wb") as pixels:
        if library == "gdcm":
            pixels.write(_through_gdcm(stream, width, height, bits, components))
        elif library == "_openjpeg":
            pixels.write(_through_openjpeg(stream))
        else:
            pixels.write(_through_charls(stream, width, height, components))
    os._exit(0)


if __name__ == "__main__":
    _main()
