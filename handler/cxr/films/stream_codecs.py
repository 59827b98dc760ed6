"""The values in a compressed stream, by libraries that a damaged one can bring down.

Run in a sandbox only. GDCM 3.2 ends its process where one of its assertions fails, prints, and goes on after damage;
the CharLS of pyjpegls 1.5 can take many seconds over 3 kB; OpenJPEG 2.5 takes gigabytes for a film that 1 kB cuts into
precincts of one pixel.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import math
from array import array
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

LIBRARIES: Final = ("gdcm", "_CharLS", "_openjpeg", "PIL.Jpeg2KImagePlugin", "PIL.TiffImagePlugin", "numpy")
# What libjpeg says where a stream ends early or holds what is no code; it then makes up the rest of the film.
DAMAGE: Final = (b"remature end", b"bad Huffman code")
_KEPT: Final[list[Any]] = []  # GDCM 3.2 aborts where Python frees its objects in the order of the names


@dataclass(frozen=True, slots=True)
class Coded:
    """What is known of a compressed stream, and what decodes it.

    Parameters
    ----------
    library
        ``libjpeg``, the libjpeg-turbo 3 of Pillow, for JPEG of one component, and ``gdcm`` for any; ``_CharLS``, of
        pyjpegls, for JPEG-LS; ``_openjpeg``, of pylibjpeg-openjpeg, for JPEG 2000, and ``PIL`` for less of it;
        ``libtiff``, that of Pillow, for a TIFF of bytes that `cxr.films.scans` wrote.
    width, height, bits, components, signed
        As the stream announces them; the values of a pixel come one after another.
    halvings
        How often each side is halved while it is decoded: by ``libjpeg``, of what is not lossless, and ``PIL``.
    """

    library: str
    width: int
    height: int
    bits: int
    components: int = 1
    signed: bool = False
    halvings: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values that come out: (H, W), or (H, W, components)."""
        height, width = (-(-side >> self.halvings) for side in (self.height, self.width))
        return (height, width) if self.components == 1 else (height, width, self.components)

    @property
    def values(self) -> int:
        """How many values are in the stream."""
        return self.width * self.height * self.components

    @property
    def size(self) -> int:
        """Bytes of the values: one each where `bits` is at most 8, or else two, low byte first."""
        return math.prod(self.shape) * (1 if self.bits <= 8 else 2)


def import_libraries() -> None:
    """Import those of `LIBRARIES` that are installed, and what they load at first use: a decoder can open no file."""
    for library in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("PIL.Image").preinit()
        _libjpeg()


@cache
def _libjpeg() -> ctypes.CDLL:
    """The library that Pillow brings."""
    return ctypes.CDLL(importlib.import_module("PIL._imaging").__file__)  # finds what that one is linked with


def values_of(coded: Coded, stream: bytes) -> bytes | memoryview:
    """The `Coded.size` bytes of a stream's values.

    Raises
    ------
    Exception
        Whatever the library leads to, unless it ends the process.
    """
    if coded.library == "libjpeg":
        return _through_libjpeg(coded, stream)
    if coded.library == "gdcm":
        return _through_gdcm(coded, stream)
    if coded.library == "PIL":
        return _through_pillow(coded, stream)
    if coded.library == "libtiff":
        return _through_libtiff(coded, stream)
    if coded.library == "_openjpeg":
        return _through_openjpeg(stream)
    return _through_charls(coded, stream)


def _through_charls(coded: Coded, stream: bytes) -> bytes | memoryview:
    charls = importlib.import_module("_CharLS")
    header = charls.read_header(stream)
    if (header["width"], header["height"], header["components"]) != (coded.width, coded.height, coded.components):
        raise ValueError("another size than announced")  # an LSE segment can change it: ITU-T T.870 C.2.4.1.4
    pixels: bytearray = charls._decode(stream)
    if coded.components == 1 or header["interleave_mode"] != 0:
        return memoryview(pixels)
    planes = array("B" if header["bits_per_sample"] <= 8 else "H", pixels)
    mixed, size = array(planes.typecode, bytes(len(pixels))), len(planes) // coded.components
    for place in range(coded.components):
        mixed[place :: coded.components] = planes[place * size : (place + 1) * size]
    return mixed.tobytes()


def _through_pillow(coded: Coded, stream: bytes) -> memoryview:
    numpy: Any = importlib.import_module("numpy")
    image: Any = importlib.import_module("PIL.Image")
    with image.open(io.BytesIO(stream), formats=("JPEG2000",)) as picture:
        picture.reduce = coded.halvings
        values = numpy.array(picture)
    if values.shape != coded.shape:
        raise ValueError("another size than announced")
    # It moves values of 1 to 7 or 9 to 15 bits to the top of 8 or 16, and signed ones above zero
    values >>= values.dtype.itemsize * 8 - coded.bits
    if coded.signed:
        values -= values.dtype.type(1 << (coded.bits - 1))
    return memoryview(values).cast("B")


def _through_libtiff(coded: Coded, stream: bytes) -> memoryview:
    numpy: Any = importlib.import_module("numpy")
    image: Any = importlib.import_module("PIL.Image")
    image.MAX_IMAGE_PIXELS = None  # the pixels of the film are counted, and each is several here
    with image.open(io.BytesIO(stream), formats=("TIFF",)) as picture:
        values = numpy.array(picture)
    if values.shape != coded.shape or values.dtype != numpy.uint8:
        raise ValueError("another size than announced")
    return memoryview(values).cast("B")


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


# What libjpeg's calls take, up to the last member that is used here; the rest is there for the size, which
# jpeg_CreateDecompress compares. As in jpeglib.h of libjpeg-turbo 3 with the interface of version 6.2.
_POINTER, _INT, _UINT = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_VERSION: Final = 62


class _ErrorManager(ctypes.Structure):
    _fields_ = (
        ("error_exit", _POINTER),
        ("methods", _POINTER * 4),
        ("msg_code", _INT),
        ("msg_parm", ctypes.c_char * 80),
        ("trace_level", _INT),
        ("num_warnings", ctypes.c_long),
        ("tables", _POINTER * 6),
    )


class _Decompress(ctypes.Structure):
    _fields_ = (
        ("err", _POINTER),
        ("managers", _POINTER * 3),
        ("states", _INT * 2),
        ("src", _POINTER),
        ("image_width", _UINT),
        ("image_height", _UINT),
        ("num_components", _INT),
        ("colour_spaces", _INT * 2),
        ("scale_num", _UINT),
        ("scale_denom", _UINT),
        ("output_gamma", ctypes.c_double),
        ("ways", _INT * 12),
        ("output_width", _UINT),
        ("output_height", _UINT),
        ("output_counts", _INT * 4),
        ("colormap", _POINTER),
        ("output_scanline", _UINT),
        ("progress", _INT * 4),
        ("tables", _POINTER * 13),
        ("data_precision", _INT),
        ("comp_info", _POINTER),
        ("is_progressive_or_arithmetic", _INT * 2),
        ("conditioning", ctypes.c_ubyte * 48),
        ("restart_interval", _UINT),
        ("saw_jfif_marker", _INT),
        ("jfif", ctypes.c_ubyte * 3),
        ("densities", ctypes.c_ushort * 2),
        ("saw_adobe_marker", _INT),
        ("adobe_transform", ctypes.c_ubyte),
        ("ccir601_sampling", _INT),
        ("marker_list", _POINTER),
        ("sampling", _INT * 3),
        ("total_imcu_rows", _UINT),
        ("sample_range_limit", _POINTER),
        ("comps_in_scan", _INT),
        ("cur_comp_info", _POINTER * 4),
        ("scan", _INT * 18),
        ("modules", _POINTER * 11),
    )


def _through_libjpeg(coded: Coded, stream: bytes) -> memoryview:
    """Through the library that Pillow brings, because Pillow itself reads 8 bits only.

    Its first error ends the process: it would otherwise return from where C programs jump out.
    """
    numpy: Any = importlib.import_module("numpy")
    libjpeg = _libjpeg()
    errors, film = _ErrorManager(), _Decompress()
    libjpeg.jpeg_std_error.restype = _POINTER
    film.err = libjpeg.jpeg_std_error(ctypes.byref(errors))
    errors.error_exit = ctypes.cast(ctypes.CDLL(None).abort, _POINTER)
    libjpeg.jpeg_CreateDecompress(ctypes.byref(film), _VERSION, ctypes.c_size_t(ctypes.sizeof(film)))
    libjpeg.jpeg_mem_src(ctypes.byref(film), stream, ctypes.c_ulong(len(stream)))
    libjpeg.jpeg_read_header(ctypes.byref(film), 1)
    found = (film.image_width, film.image_height, film.num_components, film.data_precision)
    if found != (coded.width, coded.height, 1, coded.bits):
        raise ValueError("another film than announced")
    film.scale_num, film.scale_denom = 1, 1 << coded.halvings
    libjpeg.jpeg_start_decompress(ctypes.byref(film))
    values = numpy.empty(coded.shape, "u1" if coded.bits <= 8 else "<u2")
    if (film.output_height, film.output_width) != values.shape:
        raise ValueError("another size than announced")
    rows = (values.ctypes.data + values.strides[0] * numpy.arange(len(values))).astype(numpy.uintp)
    kind = "" if coded.bits <= 8 else "12" if coded.bits <= 12 else "16"
    read = libjpeg[f"jpeg{kind}_read_scanlines"]
    while (done := film.output_scanline) < len(values):
        if not read(ctypes.byref(film), _POINTER(rows.ctypes.data + done * rows.itemsize), len(values) - done):
            raise ValueError("not decoded")
    libjpeg.jpeg_finish_decompress(ctypes.byref(film))
    if errors.num_warnings:
        raise ValueError("damaged")
    return memoryview(values).cast("B")
