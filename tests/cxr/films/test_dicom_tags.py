# ruff: noqa: RUF001 - words in other alphabets look like Latin ones
"""Refusals by tag: what names something else, in whatever language, and nothing that merely is not known."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from jpeg_ls import encode_array
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from cxr.errors import InputError
from cxr.films.decode import decode
from cxr.films.dicom_tags import TagRefusal
from tests.films import compressed, dicom, encoded, film


def with_bytes(keyword: str, value: bytes, **tags: Any) -> bytes:
    """A film one of whose texts has these bytes, in whatever character set."""
    value += b" " * (len(value) % 2)
    return dicom(film(), bits=8, **{keyword: "@" * len(value), **tags}).replace(b"@" * len(value), value)


def code_of(data: bytes) -> str | None:
    try:
        decode(data)
    except InputError as error:
        return error.code
    return None


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.mark.parametrize(
    "part",
    [
        *(
            "",
            "CHEST",
            "Chest",
            " THORAX",
            "THORAX\0",
            "TÓRAX",
            "TORACE",
            "CAGE THORACIQUE",
            "BRUST",
            "KLATKA PIERSIOWA",
        ),
        *("RTG KLP", "Hrudník", "GÖĞÜS", "BRÖSTKORG", "MELLKAS", "UNKNOWN", "OTHER", "N/A", "DEFAULT", "WHOLEBODY"),
        *("HEART", "STERNUM", "RIBS", "MEDIASTINUM", "LUNG", "TRUNK", "CHEST PA", "THORAX/ABDOMEN", "CHEST ABD PELVIS"),
        *("T-D3000", "51185008", "PECHO", "PULMON", "BORSTKAS", "X", "THORAX P.A."),
    ],
)
def test_a_chest_film_is_answered_whatever_word_its_part_has(part: str) -> None:
    assert code_of(with_bytes("BodyPartExamined", part.encode("latin_1", "replace"))) is None
    assert code_of(with_bytes("BodyPartExamined", part.encode())) is None


@pytest.mark.parametrize(
    "part",
    [
        *(
            "ABDOMEN",
            "Abdomen AP",
            "KNEE",
            "L KNEE",
            "HAND",
            "SKULL",
            "LSPINE",
            "THORACIC SPINE",
            "TSPINE",
            "PELVIS",
            "HIP",
        ),
        *("KNIE", "SCHÄDEL", "Becken", "LWS", "Brustwirbelsäule", "Ellenbogen", "GENOU", "CRÂNE", "ABDOMEN SANS PREP"),
        *("RODILLA", "COLUMNA LUMBAR", "CRÁNEO", "JOELHO", "MÃO", "CRÂNIO", "GINOCCHIO", "ADDOME", "KOLANO", "CZASZKA"),
        *("HEUP", "T-D9200", "72696002", "EXTREMITY", "SHOULDER", "FOOT"),
    ],
)
def test_another_part_is_refused_in_many_languages(part: str) -> None:
    for encoding in ("latin_1", "utf_8"):
        assert code_of(with_bytes("BodyPartExamined", part.encode(encoding))) == "NOT_A_RADIOGRAPH"


@pytest.mark.parametrize("declares", [True, False])
@pytest.mark.parametrize(
    ("part", "encoding", "name", "is_other"),
    [
        ("胸部", "gb18030", "GB18030", False),
        ("腹部", "gb18030", "GB18030", True),
        ("胸椎", "gb18030", "GB18030", True),
        ("膝关节", "utf_8", "ISO_IR 192", True),
        ("胸部", "utf_8", "ISO_IR 192", False),
        ("胸部", "shift_jis", "ISO_IR 13", False),
        ("膝関節", "shift_jis", "ISO_IR 13", True),
        ("腹部", "iso2022_jp", "\\ISO 2022 IR 87", True),
        ("흉부", "euc_kr", "\\ISO 2022 IR 149", False),
        ("무릎", "euc_kr", "\\ISO 2022 IR 149", True),
        ("органы грудной клетки", "iso8859_5", "ISO_IR 144", False),
        ("коленный сустав", "iso8859_5", "ISO_IR 144", True),
        ("КОЛЕННЫЙ СУСТАВ", "cp1251", "ISO_IR 144", True),
        ("грудной отдел позвоночника", "cp1251", "ISO_IR 144", True),
        ("ΘΩΡΑΚΑΣ", "iso8859_7", "ISO_IR 126", False),
        ("ΓΟΝΑΤΟ", "iso8859_7", "ISO_IR 126", True),
        ("صدر", "iso8859_6", "ISO_IR 127", False),
        ("ركبة", "iso8859_6", "ISO_IR 127", True),
        ("ركبة", "cp1256", "ISO_IR 127", True),
    ],
)
def test_a_part_is_known_in_other_scripts_with_and_without_their_character_set(
    part: str, encoding: str, name: str, is_other: bool, declares: bool
) -> None:
    tags = {"SpecificCharacterSet": name.split("\\")} if declares else {}
    body = with_bytes("BodyPartExamined", part.encode(encoding), **tags)
    assert code_of(body) == ("NOT_A_RADIOGRAPH" if is_other else None)


def coded(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


@pytest.mark.parametrize(
    ("region", "is_other"),
    [
        (coded("51185008", "Chest"), False),
        (coded("T-D3000", "Chest", "SRT"), False),
        (coded("72696002", "x"), True),
        (coded("T-D4000", "x", "SRT"), True),
        (coded("L99", "Knee joint", "99LOCAL"), True),
        (coded("L99", "Thorax", "99LOCAL"), False),
    ],
)
def test_the_anatomic_region_counts_where_there_is_no_part(region: Dataset, is_other: bool) -> None:
    for part in (None, ""):
        data = dicom(film(), bits=8, BodyPartExamined=part, AnatomicRegionSequence=[region])
        assert code_of(data) == ("NOT_A_RADIOGRAPH" if is_other else None)
    assert code_of(dicom(film(), bits=8, AnatomicRegionSequence=[region])) is None


@pytest.mark.parametrize("modality", ["RF", "XA", "CR", " DX", "dx", "DX\0", "", "RX", "XR", "RG", "OT", "SC", "HC"])
def test_films_of_radiography_are_answered_whatever_they_call_it(modality: str) -> None:
    assert code_of(with_bytes("Modality", modality.encode())) is None


@pytest.mark.parametrize("modality", ["CT", "ct ", "MR", "US", "MG", "NM", "PT", "XC", "IO", "ES"])
def test_other_techniques_are_refused(modality: str) -> None:
    assert code_of(with_bytes("Modality", modality.encode())) == "NOT_A_RADIOGRAPH"


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("1.2.840.10008.1.3.10", "DICOMDIR"),
        ("1.2.840.10008.5.1.4.1.1.88.11", "structured report"),
        ("1.2.840.10008.5.1.4.1.1.88.59", "key object"),
        ("1.2.840.10008.5.1.4.1.1.11.1", "presentation state"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "document"),
        ("1.2.840.10008.5.1.4.1.1.9.1.1", "waveforms"),
        ("1.2.840.10008.5.1.4.1.1.2", "a CT"),
        ("1.2.840.10008.5.1.4.1.1.66.4", "segmentation"),
        ("1.2.840.10008.5.1.4.1.1.1.2", "mammogram"),
    ],
)
def test_what_lies_beside_films_is_named(storage: str, words: str) -> None:
    for tags in ({"PixelData": None, "Rows": None, "Modality": None}, {"Modality": ""}):
        with pytest.raises(InputError, match=words) as refused:
            decode(dicom(film(), bits=8, SOPClassUID=storage, **tags))
        assert refused.value.code == "NOT_A_RADIOGRAPH"


@pytest.mark.parametrize("modality", ["SR", "PR", "KO", "DOC"])
def test_what_lies_beside_films_is_known_by_its_modality_too(modality: str) -> None:
    data = dicom(film(), bits=8, Modality=modality, PixelData=None, Rows=None, SOPClassUID=None)
    assert code_of(data) == "NOT_A_RADIOGRAPH"


@pytest.mark.parametrize(
    ("said", "view"),
    [
        *(
            ("PA", "PA"),
            ("AP", "AP"),
            (" pa", "PA"),
            ("P-A", "PA"),
            ("P.A.", "PA"),
            ("PA ERECT", "PA"),
            ("CHEST AP", "AP"),
        ),
        *(("AP_SUPINE", "AP SUPINE"), ("AP SUPINE", "AP SUPINE"), ("Postero-Anterior", "PA"), ("AP PORTABLE", "AP")),
        *(("PA/LAT", None), ("FRONTAL", None), ("", None), ("XYZ", None)),
    ],
)
def test_a_frontal_view_is_known_however_it_is_written(said: str, view: str | None) -> None:
    assert decode(dicom(film(), bits=8, ViewPosition=said)).info.view_position == view


@pytest.mark.parametrize(
    "said",
    [
        *(
            "LL",
            "RL",
            "LATERAL",
            "lat",
            "LEFT LATERAL",
            "L-LAT",
            "LLAT",
            "RLD",
            "PROFIL",
            "Perfil",
            "SEITLICH",
            "LAO",
            "OBLIQUE",
        ),
        *("LATEROLATERAL", "Profilo", "LAO", "OBLIQUE"),
    ],
)
def test_another_view_is_refused_however_it_is_written(said: str) -> None:
    assert code_of(dicom(film(), bits=8, ViewPosition=said)) == "NOT_FRONTAL"


def test_a_lateral_view_in_other_scripts_is_refused() -> None:
    for word, encoding in (("боковая", "iso8859_5"), ("侧位", "gb18030"), ("側面", "shift_jis"), ("측면", "euc_kr")):
        assert code_of(with_bytes("ViewPosition", word.encode(encoding))) == "NOT_FRONTAL"


@pytest.mark.parametrize(
    ("tags", "view"),
    [
        ({"PatientOrientation": "PA"}, "PA"),
        ({"PatientOrientation": ["AP", ""]}, "AP"),
        ({"BodyPartExamined": "THORAX AP"}, "AP"),
        ({"ViewCodeSequence": [coded("272479007", "postero-anterior")]}, "PA"),
        ({"ViewCodeSequence": [coded("X", "bilateral", "99L")]}, None),
        ({"PatientOrientation": "POSTERIOR"}, None),
    ],
)
def test_a_view_in_the_wrong_tag_is_the_view(tags: dict[str, Any], view: str | None) -> None:
    assert decode(dicom(film(), bits=8, ViewPosition=None, **tags)).info.view_position == view


@pytest.mark.parametrize(
    "tags",
    [
        {"PatientOrientation": "LATERAL"},
        {"PatientOrientation": ["P", "F"]},
        {"PatientOrientation": ["H", "A"]},
        {"BodyPartExamined": "CHEST LAT"},
        {"ViewCodeSequence": [coded("399173006", "x")]},
        {"ViewCodeSequence": [coded("x", "lateral projection", "99L")]},
    ],
)
def test_another_view_in_the_wrong_tag_is_refused(tags: dict[str, Any]) -> None:
    assert code_of(dicom(film(), bits=8, ViewPosition="", **tags)) == "NOT_FRONTAL"


LAYINGS = {
    ("L", "F"): lambda grey: grey,
    ("H", "L"): lambda grey: np.rot90(grey, -1),  # turned clockwise: the right of the film runs to the head
    ("F", "R"): lambda grey: np.rot90(grey, 1),
    ("R", "H"): lambda grey: np.rot90(grey, 2),
    ("L", "H"): lambda grey: grey[::-1],
    ("F", "L"): lambda grey: grey.T,
    ("H", "R"): lambda grey: np.rot90(grey, 2).T,
}


@pytest.mark.parametrize("laying", LAYINGS)
def test_a_film_on_its_side_is_set_upright_and_flagged(laying: tuple[str, str]) -> None:
    """PS3.3 C.7.6.1.1.1: where the rows and where the columns run to."""
    stored = np.ascontiguousarray(LAYINGS[laying](film()))
    decoded = decode(dicom(stored, bits=8, PatientOrientation=[*laying]))
    np.testing.assert_array_equal(decoded.pixels, film())
    assert (decoded.info.width, decoded.info.height) == (80, 96)
    assert decoded.info.flags == (() if laying == ("L", "F") else ("turned",))


def test_a_mirrored_film_stays_as_viewers_show_it() -> None:
    decoded = decode(dicom(film(), bits=8, PatientOrientation=["R", "F"]))
    np.testing.assert_array_equal(decoded.pixels, film())


def test_a_refusal_by_tag_carries_the_film_for_who_knows_better() -> None:
    with pytest.raises(TagRefusal, match="Cxr-View") as refused:
        decode(dicom(film(), bits=8, BodyPartExamined="ABDOMEN"))
    assert refused.value.film is not None
    np.testing.assert_array_equal(refused.value.film.pixels, film())
    assert not hasattr(refused.value.bare(), "film")


def coloured(stored: npt.NDArray[Any], photometric: str, **tags: Any) -> bytes:
    shape = {"Rows": 96, "Columns": 80, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    return dicom(stored, bits=8, **{**shape, "PhotometricInterpretation": photometric, **tags})


THRICE = np.dstack([film()] * 3)
Y_ONLY = np.dstack([film(), np.full_like(film(), 128), np.full_like(film(), 128)])
HALVED = np.stack([film()[:, ::2], film()[:, 1::2], *[np.full((96, 40), 128)] * 2], axis=2).astype(np.uint8)
BASELINE = encapsulate([encoded(Image.fromarray(THRICE), "JPEG", quality=95)])
GREY_IN_COLOUR: dict[str, tuple[bytes, int]] = {
    "RGB": (coloured(THRICE, "RGB"), 0),
    "RGB by planes": (
        coloured(np.moveaxis(THRICE, -1, 0).copy(), "RGB", Rows=96, Columns=80, PlanarConfiguration=1),
        0,
    ),
    "RGB, RLE": (compressed(coloured(THRICE, "RGB"), RLELossless), 0),
    "RGB, JPEG 2000": (
        coloured(
            THRICE,
            "YBR_RCT",
            syntax=JPEG2000Lossless,
            PixelData=encapsulate([encoded(Image.fromarray(THRICE), "JPEG2000", no_jp2=True)]),
        ),
        0,
    ),
    "YBR_FULL": (coloured(Y_ONLY, "YBR_FULL"), 0),
    "RGB that is YBR": (coloured(Y_ONLY, "RGB"), 0),
    "YBR that is RGB": (coloured(THRICE, "YBR_FULL"), 0),
    "YBR_FULL_422": (coloured(HALVED, "YBR_FULL_422", Columns=80), 0),
    "YBR_FULL_422, JPEG": (coloured(THRICE, "YBR_FULL_422", syntax=JPEGBaseline8Bit, PixelData=BASELINE), 4),
    "RGB, JPEG": (coloured(THRICE, "RGB", syntax=JPEGBaseline8Bit, PixelData=BASELINE), 4),
    "RGB, lossless JPEG": (compressed(coloured(THRICE, "RGB"), JPEGLosslessSV1), 0),
    "RGB, JPEG-LS": (compressed(coloured(THRICE, "RGB"), JPEGLSLossless), 0),
    "RGB, JPEG-LS by planes": (
        coloured(
            THRICE,
            "RGB",
            syntax=JPEGLSLossless,
            PixelData=encapsulate([bytes(encode_array(np.moveaxis(THRICE, -1, 0).copy(), 0, 0))]),
        ),
        0,
    ),
    "RGB of 16 bits": (coloured(THRICE.astype(np.uint16) * 257, "RGB", BitsAllocated=16, BitsStored=16, HighBit=15), 0),
}


@pytest.mark.parametrize("kind", GREY_IN_COLOUR)
def test_a_grey_film_stored_in_colour_is_the_grey_film(kind: str) -> None:
    data, most = GREY_IN_COLOUR[kind]
    decoded = decode(data)
    assert np.abs(decoded.pixels.astype(int) - film()).max() <= most


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_a_coloured_picture_is_refused_in_either_reading(photometric: str) -> None:
    stored = np.dstack([film(1), film(2), film(3)])
    with pytest.raises(InputError, match="colour channels differ") as refused:
        decode(coloured(stored, photometric))
    assert refused.value.code == "NOT_A_RADIOGRAPH"


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
def test_a_white_page_with_colours_is_not_taken_for_grey(photometric: str) -> None:
    """As Y, Cb and Cr these values are clipped to white, which has no colour."""
    page = np.full((96, 80, 3), 255, np.uint8)
    page[20:60, 20:60] = [255, 40, 40]
    with pytest.raises(InputError, match="colour channels differ"):
        decode(coloured(page, photometric.removesuffix("_422")))


def palette(curve: npt.NDArray[Any], bits: int, first: int = 0) -> dict[str, Any]:
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [len(curve) % 65536, first, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = curve.astype("<u2" if curve.itemsize > 1 else "u1").tobytes()
    return tags


def test_a_grey_palette_is_looked_up() -> None:
    """PS3.3 C.7.6.3.1.5; entries of 16 bits, of 8 bits, and of 8 bits in 16."""
    inverse = np.arange(256)[::-1]
    for curve, bits in ((inverse * 257, 16), (inverse, 16), (inverse.astype(np.uint8), 8)):
        data = dicom(film(), bits=8, **palette(np.asarray(curve, curve.dtype if bits == 8 else np.uint16), bits))
        np.testing.assert_array_equal(decode(data).pixels, 255 - film())


def test_a_coloured_palette_is_refused() -> None:
    tags = palette((np.arange(256) * 257).astype(np.uint16), 16)
    tags["RedPaletteColorLookupTableData"] = bytes(512)
    assert code_of(dicom(film(), bits=8, **tags)) == "NOT_A_RADIOGRAPH"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_film_without_preamble_and_meta_group_is_read_in_every_encoding(syntax: Any) -> None:
    order = "<" if syntax.is_little_endian else ">"
    stored = film().astype(np.uint16) * 16
    whole = dicom(stored, syntax=syntax, PixelData=stored.astype(f"{order}u2").tobytes())
    bare = io.BytesIO()
    dataset = dcmread(io.BytesIO(whole))
    start = whole.index(b"\x08\x00\x16\x00" if order == "<" else b"\x00\x08\x00\x16")
    bare.write(whole[start:])
    assert dataset.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(decode(bare.getvalue()).pixels, decode(whole).pixels)


def test_a_meta_group_without_transfer_syntax_leaves_it_to_the_elements() -> None:
    """vinbigdata-medical/vindr-cxr#3."""
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        dataset = dcmread(io.BytesIO(dicom(film(), bits=8, syntax=syntax)))
        del dataset.file_meta.TransferSyntaxUID
        stream = io.BytesIO()
        is_implicit = syntax == ImplicitVRLittleEndian
        dataset.save_as(stream, implicit_vr=is_implicit, little_endian=True, enforce_file_format=False)
        np.testing.assert_array_equal(decode(stream.getvalue()).pixels, film())


@pytest.mark.parametrize("stream", ["JPEG", "JPEG2000"])
def test_pixels_in_fragments_are_decoded_though_the_syntax_says_there_are_none(stream: str) -> None:
    """DICOMcloud/DICOMcloud#22."""
    options = {"quality": 95} if stream == "JPEG" else {"no_jp2": True}
    syntax = JPEGBaseline8Bit if stream == "JPEG" else JPEG2000Lossless
    named = dicom(film(), bits=8, syntax=syntax, PixelData=encapsulate([encoded(film(), stream, **options)]))
    plain = named.replace(
        syntax.encode() + b"\0" * (len(syntax) % 2), b"1.2.840.10008.1.2.1".ljust(len(syntax) + len(syntax) % 2, b"\0")
    )
    assert plain != named
    np.testing.assert_array_equal(decode(plain).pixels, decode(named).pixels)


def test_an_offset_for_each_fragment_of_one_frame_is_not_taken_for_frames() -> None:
    whole = encoded(film(), "JPEG2000", no_jp2=True)
    parts = [whole[at : at + 200] for at in range(0, len(whole), 200)]
    parts = [part + b"\0" * (len(part) % 2) for part in parts]
    items = b"".join(b"\xfe\xff\x00\xe0" + len(part).to_bytes(4, "little") + part for part in parts)
    offsets = b"".join((208 * place).to_bytes(4, "little") for place in range(len(parts)))
    pixels = b"\xfe\xff\x00\xe0" + len(offsets).to_bytes(4, "little") + offsets + items + b"\xfe\xff\xdd\xe0\0\0\0\0"
    data = dicom(film(), bits=8, syntax=JPEG2000Lossless, PixelData=pixels)
    np.testing.assert_array_equal(decode(data).pixels, film())


def test_one_byte_a_pixel_is_read_though_two_are_allocated() -> None:
    """fo-dicom#1992: the tags of a compressed film, copied by a converter."""
    data = dicom(film(), bits=8, BitsAllocated=16)
    np.testing.assert_array_equal(decode(data).pixels, film())
