"""From a DICOM file to a film as a reading room shows it.

The steps are those of the grey-scale pipeline in DICOM PS3.4 annex N.2: stored values, modality transformation, values
of interest, presentation. Only single-frame projection images of the chest are read; what the tags say is something
else is refused.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset

from cxr.errors import InputError
from cxr.films.dicom_codecs import GREY, PALETTE, read_stored
from cxr.films.dicom_greys import greys
from cxr.films.dicom_header import read_header, word_bytes, words
from cxr.films.dicom_tags import Claims, TagRefusal, read_claims
from cxr.films.film import Film, ImageInfo, Pixels, unit_to_uint8
from cxr.films.greys import MAX_COLOUR, check_grey, colour_of, luminance
from cxr.films.pictures import JPEG_START, MOST_BESIDE, check_segments
from cxr.films.stored_values import Frame, Stored

_ITEM: Final = b"\xfe\xff\x00\xe0"


def read_dicom(data: bytes, least_side: int | None = None) -> tuple[Film, TagRefusal | None]:
    """The film in a DICOM file, and what its tags have against it, which whoever sent it may overrule.

    Parameters
    ----------
    data, least_side
        As in `cxr.films.decode.decode`.

    Raises
    ------
    InputError
        With the code that says what is wrong with it.
    """
    try:
        return _read(data, least_side)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom 3.0 and its decoders raise whatever the damage leads to
        raise InputError("DAMAGED_IMAGE", "the DICOM file cannot be read. Export it again.") from error


def _read(data: bytes, least_side: int | None) -> tuple[Film, TagRefusal | None]:
    dataset = read_header(data)
    claims = read_claims(dataset)
    _check_code_stream(dataset.get_item("PixelData").value)
    frame = read_stored(dataset, least_side)
    pixels, flags = _shown(frame, claims, dataset)
    flags = tuple(dict.fromkeys((*claims.flags, *frame.flags, *flags)))
    if claims.flipped or claims.quarter_turns:
        pixels = np.ascontiguousarray(np.rot90(pixels[::-1] if claims.flipped else pixels, claims.quarter_turns))
        flags = (*flags, "turned")
    sides = int(dataset.Columns), int(dataset.Rows)
    width, height = sides[::-1] if claims.quarter_turns % 2 else sides
    info = ImageInfo(
        format="DICOM",
        width=width,
        height=height,
        bits=frame.bits,
        photometric_interpretation=claims.photometric,
        view_position=claims.view,
        flags=flags,
    )
    return Film(pixels, info), claims.objection


def _check_code_stream(value: object) -> None:
    """Look at the segments of a JPEG in a DICOM file as at those of one by itself: PS3.5 A.4, the first fragment."""
    if not isinstance(value, bytes) or value[:4] != _ITEM:
        return
    start = 16 + int.from_bytes(value[4:8], "little")  # behind the offset table and the head of the fragment
    if value.startswith(JPEG_START, start):
        check_segments(value[start : start + 2 * MOST_BESIDE])


def _shown(frame: Frame, claims: Claims, dataset: Dataset) -> tuple[Pixels, tuple[str, ...]]:
    if claims.photometric in GREY:
        return greys(frame, claims.photometric, dataset)
    if claims.photometric == PALETTE:
        return _grey_of_palette(frame.values, dataset), ()
    return grey_of_colours(frame.values, frame.bits, is_luminance=claims.photometric.startswith("YBR_")), ()


def grey_of_colours(values: Stored, bits: int, *, is_luminance: bool) -> Pixels:
    """The grey of a film of three values a pixel.

    Parameters
    ----------
    values
        (H, W, 3), of `bits` bits.
    is_luminance
        Whether the tags say they are Y, Cb and Cr; decoders and writers disagree, so that the other is tried too.

    Raises
    ------
    InputError
        NOT_A_RADIOGRAPH where it is coloured in either reading.
    """
    scaled = np.ascontiguousarray(unit_to_uint8(values / np.float32((1 << bits) - 1)) if bits != 8 else values)
    channels = scaled.astype(np.uint8, copy=False)
    as_rgb = Image.fromarray(channels, "RGB")
    sample = np.asarray(as_rgb.resize((64, 64), Image.Resampling.BOX), dtype=np.float32)
    # Cb and Cr of a grey are 128: PS3.3 C.7.6.3.1.2
    chroma = 2 * float(np.abs(sample[..., 1:] - 128).max(axis=2).mean())
    if chroma <= MAX_COLOUR and (is_luminance or colour_of(as_rgb) > MAX_COLOUR):
        return np.ascontiguousarray(channels[..., 0])
    check_grey(as_rgb)
    if bits > 8:
        return unit_to_uint8(luminance(*np.moveaxis(values, -1, 0)) / np.float32((1 << bits) - 1))
    return np.asarray(as_rgb.convert("L"))


def _grey_of_palette(values: Stored, dataset: Dataset) -> Pixels:
    """The grey of a film whose values stand for colours in a palette: PS3.3 C.7.6.3.1.5.

    Raises
    ------
    InputError
        NOT_A_RADIOGRAPH where they are coloured or the palette is not there.
    """
    first, red = _palette(dataset, "Red")
    _, green = _palette(dataset, "Green")
    _, blue = _palette(dataset, "Blue")
    length = min(len(red), len(green), len(blue))
    places = np.clip(values - first, 0, length - 1)
    colours = np.stack([unit_to_uint8(channel[:length]) for channel in (red, green, blue)], axis=1)
    check_grey(Image.fromarray(np.ascontiguousarray(colours[places]), "RGB"))
    return unit_to_uint8(luminance(red[:length], green[:length], blue[:length]))[places]


def _palette(dataset: Dataset, colour: str) -> tuple[int, npt.NDArray[np.float32]]:
    """The first value mapped, and what each from there on has of one colour, 0-1."""
    descriptor = words(dataset, f"{colour}PaletteColorLookupTableDescriptor")
    data = word_bytes(dataset, f"{colour}PaletteColorLookupTableData")
    if len(descriptor) != 3 or len(data) < 2:
        raise InputError("NOT_A_RADIOGRAPH", "PALETTE COLOR without a palette. Send the grey original.")
    length = int(descriptor[0]) or 65536
    entries = np.frombuffer(data[: len(data) // 2 * 2], "<u2") if len(data) >= 2 * length else np.frombuffer(data, "u1")
    entries = entries[:length]
    # Entries of 16 bits that use the lower eight only are as frequent as those that use all.
    top = 255.0 if int(entries.max()) < 256 else 65535.0
    return int(descriptor[1]), np.asarray(entries / np.float32(top), dtype=np.float32)
