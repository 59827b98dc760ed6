"""The values in a compressed stream, by libraries that a damaged one can bring down.

Run in a sandbox only. GDCM 3.2 ends its process where one of its assertions fails, prints, and goes on after damage;
the CharLS of pyjpegls 1.5 can take many seconds over 3 kB; OpenJPEG 2.5 takes gigabytes for a film that 1 kB cuts into
precincts of one pixel.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from array import array
from dataclasses import dataclass
from typing import Any, Final

LIBRARIES: Final = ("gdcm", "_CharLS", "_openjpeg")
# What libjpeg says where a stream ends early or holds what is no code; it then makes up the rest of the film.
DAMAGE: Final = (b"remature end", b"bad Huffman code")
_KEPT: Final[list[Any]] = []  # GDCM 3.2 aborts where Python frees its objects in the order of the names


@dataclass(frozen=True, slots=True)
class Coded:
    """What is known of a compressed stream, and what decodes it.

    Parameters
    ----------
    library
        ``gdcm`` for JPEG; ``_CharLS``, of pyjpegls, for JPEG-LS; ``_openjpeg``, of pylibjpeg-openjpeg, for JPEG 2000.
    width, height, bits, components
        As the stream announces them; the values of a pixel come one after another.
    """

    library: str
    width: int
    height: int
    bits: int
    components: int = 1

    @property
    def values(self) -> int:
        """How many values come out."""
        return self.width * self.height * self.components

    @property
    def size(self) -> int:
        """Bytes of the values: one each where `bits` is at most 8, or else two, low byte first."""
        return self.values * (1 if self.bits <= 8 else 2)


def import_libraries() -> None:
    """Import those of `LIBRARIES` that are installed."""
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)


def values_of(coded: Coded, stream: bytes) -> bytes:
    """The `Coded.size` bytes of a stream's values.

    Raises
    ------
    Exception
        Whatever the library leads to, unless it ends the process.
    """
    if coded.library == "gdcm":
        return _through_gdcm(coded, stream)
    if coded.library == "_openjpeg":
        return _through_openjpeg(stream)
    return _through_charls(coded, stream)


def _through_charls(coded: Coded, stream: bytes) -> bytes:
    charls = importlib.import_module("_CharLS")
    header = charls.read_header(stream)
    if (header["width"], header["height"], header["components"]) != (coded.width, coded.height, coded.components):
        raise ValueError("another size than announced")  # an LSE segment can change it: ITU-T T.870 C.2.4.1.4
    pixels = bytes(charls._decode(stream))
    if coded.components == 1 or header["interleave_mode"] != 0:
        return pixels
    planes = array("B" if header["bits_per_sample"] <= 8 else "H", pixels)
    mixed, size = array(planes.typecode, bytes(len(pixels))), len(planes) // coded.components
    for place in range(coded.components):
        mixed[place :: coded.components] = planes[place * size : (place + 1) * size]
    return mixed.tobytes()


def _through_openjpeg(stream: bytes) -> bytes:
    code, pixels = importlib.import_module("_openjpeg").decode(io.BytesIO(stream), 0, as_array=False)
    if code:
        raise ValueError(f"error {code}")
    return bytes(pixels)


def _through_gdcm(coded: Coded, stream: bytes) -> bytes:
    gdcm: Any = importlib.import_module("gdcm")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((coded.width, coded.height, 1))
    image.SetDataElement(element)
    interpretation = gdcm.PhotometricInterpretation
    kind = interpretation.MONOCHROME2 if coded.components == 1 else interpretation.RGB
    image.SetPhotometricInterpretation(interpretation(kind))
    # The process, lossless or not, is read from the stream. It aborts where bits stored and allocated differ.
    container = 8 if coded.bits <= 8 else 16
    image.SetPixelFormat(gdcm.PixelFormat(coded.components, container, container, container - 1, 0))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14))
    change = gdcm.ImageChangeTransferSyntax()  # Image.GetBuffer would not tell of a failure
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    change.SetInput(image)
    if not change.Change():
        raise ValueError("not decoded")
    _KEPT.extend((fragments, image, change))
    pixels: str = change.GetOutput().GetDataElement().GetByteValue().GetBuffer()
    return pixels.encode("utf-8", "surrogateescape")
