"""The claims of a DICOM file's tags: a single frontal chest radiograph, or what else it says it is.

What is no radiograph is refused before a pixel is decoded. A body part or a view that names something else is refused
too, but whoever sends the film may know better than a tag that was typed by hand: see `TagRefusal`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from pydicom import Dataset

from cxr.errors import InputError
from cxr.films.body_parts import folded, is_code_of_another_part, names_another_part, tokens
from cxr.films.dicom_codecs import GREY, PALETTE
from cxr.films.dicom_header import check_whole, decimals, plain_text, readings
from cxr.films.film import Film, check_size

_COLOURS: Final = (
    *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", PALETTE),
)
# Techniques that are no projection radiography: PS3.3 C.7.3.1.1.1, retired ones too
_OTHER_MODALITIES: Final = frozenset(
    tokens(
        """
        CT MR NM PT PET US MG IO PX BI CD CP CS DG EC ECG EEG EMG EOG EPS ES FA FS GM HD IVOCT IVUS KER LEN LP LS MA MS
        OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS POS RESP RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN
        RTSTRUCT SM SRF ST TG VA XAPROTOCOL XC BDUS BMD DMS
        """
    )
)
_NO_PICTURES: Final[dict[str, str]] = {
    "SR": "a structured report",
    "PR": "a presentation state",
    "KO": "a key object selection",
    "DOC": "a document",
    "AU": "audio",
    "REG": "a registration",
    "SEG": "a segmentation",
    "PLAN": "a plan",
    "FID": "fiducials",
    "RWV": "a map of real world values",
    "HCDCM": "a list of hanging protocols",
}
# By the start of the SOP class, PS3.4 B.5 and PS3.6 annex A, without the root 1.2.840.10008.
_CLASSES: Final[tuple[tuple[str, str], ...]] = (
    ("1.3.10", "the directory of a medium (DICOMDIR)"),
    ("5.1.4.1.1.88.59", "a key object selection"),
    ("5.1.4.1.1.88", "a structured report"),
    ("5.1.4.1.1.11", "a presentation state"),
    ("5.1.4.1.1.104", "a document in DICOM clothes"),
    ("5.1.4.1.1.9", "waveforms or audio"),
    ("5.1.4.1.1.66", "a registration or a segmentation"),
    ("5.1.4.1.1.481", "an object of radiotherapy"),
    ("5.1.4.1.1.2", "a CT"),
    ("5.1.4.1.1.4", "an MR"),
    ("5.1.4.1.1.6", "an ultrasound image"),
    ("5.1.4.1.1.3", "an ultrasound image"),
    ("5.1.4.1.1.20", "a nuclear medicine image"),
    ("5.1.4.1.1.128", "a PET image"),
    ("5.1.4.1.1.130", "a PET image"),
    ("5.1.4.1.1.77.1", "a photograph"),
    ("5.1.4.1.1.1.2", "a mammogram"),
    ("5.1.4.1.1.1.3", "an intra-oral film"),
    ("5.1.4.1.1.13.1.3", "a breast tomosynthesis"),
)
_ROOT: Final = "1.2.840.10008."
_RAW: Final = "FOR PROCESSING"
_NEEDED: Final = (
    *("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("PhotometricInterpretation", "PixelData"),
)
_MOST_FRAMES: Final = 1e6  # that are told by their number
_WHOLE: Final = (*_NEEDED[:6], "HighBit", "PlanarConfiguration")
_VIEWS: Final = frozenset({"PA", "AP", "AP SUPINE", "AP ERECT", "AP AXIAL", "POSTERO_ANTERIOR", "ANTERO_POSTERIOR"})
_FRONTAL: Final[dict[str, tuple[str, ...]]] = {
    "PA": ("PA", "POSTEROANTERIOR", "POSTEROANT", "POSTANT", "DORSOVENTRAL", "PADM", "ЗАДНЕПЕРЕДН"),
    "AP": ("AP", "ANTEROPOSTERIOR", "ANTEROPOST", "VENTRODORSAL", "ПЕРЕДНЕЗАДН"),
}
_FRONTAL_WORDS: Final = frozenset({"FRONTAL", "FRONTALE", "FRONT", "ПРЯМАЯ", "正位", "正面"})
# Whole words; LATERAL bends in many languages and is looked for by its beginning
_SIDE_WORDS: Final = frozenset(
    tokens(
        """
        LL RL LAT LLAT RLAT LTLAT RTLAT LATL LATR LLD RLD LLO RLO LPO RPO LAO RAO OBL OBLIQUE OBLIQUA SCHRAG SCHRAEG
        PROFIL PROFILE PROFILO PERFIL SEITLICH SEITE SEITENAUFNAHME SAGITTAL BOCZNE BOCZNA БОКОВАЯ БОКОВОЙ БОКОВОЕ БІЧНА
        """
    )
)
# PS3.16 CID 4010
_SIDE_CODES: Final = frozenset(
    {
        *("399067008", "399173006", "399198007", "399352003", "399260004", "260427002", "399135007", "399006002"),
        *("399356000", "399038007", "399184004", "399236003", "399182000", "399312000", "399059000", "399160007"),
        *("30730003", "R-10228", "R-10230", "R-10232", "R-10234", "R-10236", "R-10238", "R-10240"),
    }
)
_SIDE_PIECES: Final = tuple(folded(word) for word in ("侧位", "側位", "側面", "측면"))
_DIRECTIONS: Final = re.compile(r"[LRAPHF]{1,3}")  # PS3.3 C.7.6.1.1.1


class TagRefusal(InputError):
    """A film whose tags say it is not the chest or not frontal; whoever knows better may overrule them.

    Parameters
    ----------
    film
        The film all the same, None before it is decoded.
    """

    film: Film | None = None

    def of(self, film: Film) -> TagRefusal:
        """The refusal, with the film that it is about."""
        self.film = film
        return self


@dataclass(frozen=True, slots=True)
class Claims:
    """What the tags say of a film that may be one.

    Parameters
    ----------
    photometric
        The photometric interpretation.
    view
        PA, AP or another of the contract's names, None where no tag says it.
    quarter_turns, flipped
        What has to be done to the film so that it stands upright: flipped upside down first, then turned by this many
        quarters against the clock.
    objection
        Why it is not answered unless somebody knows better.
    flags
        Flags that follow from the tags.
    """

    photometric: str
    view: str | None
    quarter_turns: int
    flipped: bool
    objection: TagRefusal | None
    flags: tuple[str, ...]


def read_claims(dataset: Dataset) -> Claims:
    """What the tags say.

    Raises
    ------
    InputError
        NOT_A_RADIOGRAPH, MULTI_FRAME, DAMAGED_IMAGE, or the codes of `check_size`: what nobody can overrule.
    """
    _refuse_what_has_no_picture(dataset)
    if "PixelData" not in dataset and ("FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset):
        raise InputError("DAMAGED_IMAGE", "float pixel data; a film has integers, in PixelData. Export the original.")
    missing = [keyword for keyword in _NEEDED if keyword not in dataset or dataset[keyword].value is None]
    if missing:
        raise InputError("DAMAGED_IMAGE", f"the DICOM file has no {', '.join(missing)}. Export it with its pixels.")
    for keyword in _WHOLE:
        if keyword in dataset and dataset[keyword].value is not None:
            check_whole(dataset, keyword)
    _refuse_other_modalities(dataset)
    flags = _check_intent(dataset)
    frames = (decimals(dataset, "NumberOfFrames") or [1.0])[0]
    if frames is None or frames > 1:
        is_told = frames is not None and frames < _MOST_FRAMES
        said = f"{frames:,.0f} frames" if is_told else "NumberOfFrames is no number of frames"
        raise InputError("MULTI_FRAME", f"{said}; one film holds 1. Send one frame as its own file.")
    photometric = plain_text(dataset, "PhotometricInterpretation")
    if photometric not in (*GREY, *_COLOURS):
        raise InputError(
            "NOT_A_RADIOGRAPH",
            f"PhotometricInterpretation is none of a film; {' or '.join(GREY)} is needed. Send the grey original.",
        )
    check_size(int(dataset.Columns), int(dataset.Rows))
    shape = plain_text(dataset, "PresentationLUTShape")
    if (photometric, shape) in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):  # PS3.3 C.8.11.3.1.2
        flags = (*flags, "polarity_unsure")
    turns, flipped = _upright(dataset)
    view = _view_of_film(dataset)
    return Claims(photometric, view, turns, flipped, _objection(dataset), flags)


def _refuse_what_has_no_picture(dataset: Dataset) -> None:
    storage = plain_text(dataset, "SOPClassUID") or plain_text(dataset.file_meta, "MediaStorageSOPClassUID")
    storage = storage.removeprefix(_ROOT)
    kind = next((kind for start, kind in _CLASSES if storage == start or storage.startswith(f"{start}.")), None)
    kind = kind or _NO_PICTURES.get(plain_text(dataset, "Modality"))
    if kind is not None:
        raise InputError("NOT_A_RADIOGRAPH", f"the file is {kind}, not a film. Send the film of the study.")


def _refuse_other_modalities(dataset: Dataset) -> None:
    if plain_text(dataset, "Modality") in _OTHER_MODALITIES:
        raise InputError(
            "NOT_A_RADIOGRAPH",
            "Modality names another technique; a film has one of radiography, as CR, DX, DR, RG, RF, SC or OT. "
            "Send a chest radiograph.",
        )


def _check_intent(dataset: Dataset) -> tuple[str, ...]:
    """The flag of detector values that were not processed; without anything that says how to show them, a refusal."""
    storage = plain_text(dataset, "SOPClassUID")
    if plain_text(dataset, "PresentationIntentType") != _RAW and storage != f"{_ROOT}5.1.4.1.1.1.1.1":
        return ()
    shown = dataset.get("VOILUTSequence") or decimals(dataset, "WindowCenter")
    if not shown or plain_text(dataset, "PixelIntensityRelationship") == "LIN":
        raise InputError(
            "NOT_A_RADIOGRAPH",
            "the film is FOR PROCESSING: raw values of the detector, that no reading room shows. Send its twin FOR "
            "PRESENTATION, which is in the same study.",
        )
    return ("for_processing",)


def _objection(dataset: Dataset) -> TagRefusal | None:
    remedy = "if it is one of the chest, say so with the header Cxr-View: PA or AP."
    if tag := _tag_of_another_part(dataset):
        return TagRefusal(
            "NOT_A_RADIOGRAPH", f"{tag} names another part of the body. Send a chest radiograph; {remedy}"
        )
    if tag := _tag_of_another_view(dataset):
        remedy = "if this is one, say so with the header Cxr-View: PA or AP."
        return TagRefusal(
            "NOT_FRONTAL", f"{tag} is not that of a PA or AP view. Send the frontal film of the study; {remedy}"
        )
    return None


def _tag_of_another_part(dataset: Dataset) -> str | None:
    texts = readings(dataset, "BodyPartExamined")
    if texts and texts[0]:
        return "BodyPartExamined" if names_another_part(texts) else None
    region = (dataset.get("AnatomicRegionSequence") or [None])[0]
    if region is None:
        return None
    is_other = is_code_of_another_part(plain_text(region, "CodeValue"))
    return "AnatomicRegionSequence" if is_other or names_another_part(readings(region, "CodeMeaning")) else None


def _direction(dataset: Dataset, place: int) -> str:
    """A value of Patient Orientation: where the rows (0) or the columns (1) run to; nothing where it is none."""
    parts = [part.strip() for part in plain_text(dataset, "PatientOrientation", whole=True).split("\\")]
    if len(parts) != 2 or not all(_DIRECTIONS.fullmatch(part) for part in parts):
        return ""
    return parts[place]


def _tag_of_another_view(dataset: Dataset) -> str | None:
    """The tag that says a view is not frontal, where one does."""
    if _view_in(readings(dataset, "ViewPosition")) == "side":
        return "ViewPosition"
    # The rows of a frontal film run to the patient's left or right, of a lateral one to the front or back: PS3.3
    # C.7.6.1.1.1. A film on its side has its columns run there.
    rows, columns = _direction(dataset, 0), _direction(dataset, 1)
    if (rows[:1] in ("A", "P") and rows) or (rows[:1] in ("H", "F") and columns[:1] in ("A", "P") and columns):
        return "PatientOrientation"
    if not rows and _view_in(readings(dataset, "PatientOrientation")) == "side":
        return "PatientOrientation"
    code = (dataset.get("ViewCodeSequence") or [None])[0]  # PS3.16 CID 4010
    if code is not None and (
        plain_text(code, "CodeValue") in _SIDE_CODES or _view_in(readings(code, "CodeMeaning")) == "side"
    ):
        return "ViewCodeSequence"
    if _view_in(readings(dataset, "BodyPartExamined")) == "side":
        return "BodyPartExamined"
    return None


def _view_in(texts: list[str]) -> str | None:
    """What the readings of a text say of the view: PA, AP, front, side, or None where they say nothing or both."""
    found: set[str] = set()
    for text in texts:
        words = tokens(text)
        pairs = {*words, *(first + second for first, second in pairwise(words))}
        for view, names in _FRONTAL.items():
            if not pairs.isdisjoint(names[:1]) or any(word.startswith(names[1:]) for word in pairs):
                found.add(view)
        if not pairs.isdisjoint(_FRONTAL_WORDS) or any(word in text for word in ("正位", "正面")):
            found.add("front")
        is_side = not _SIDE_WORDS.isdisjoint(pairs) or any(word.startswith(("LATER", "OBLIQ")) for word in words)
        if is_side or any(piece in folded(text) for piece in _SIDE_PIECES):
            found.add("side")
    if "side" in found and len(found) == 1:
        return "side"
    found.discard("front" if len(found) > 1 else "")
    return found.pop() if len(found) == 1 else None


def _view_of_film(dataset: Dataset) -> str | None:
    view = plain_text(dataset, "ViewPosition")
    if view in _VIEWS:
        return view
    for keyword in ("ViewPosition", "PatientOrientation", "BodyPartExamined"):
        if keyword == "PatientOrientation" and _direction(dataset, 0):
            continue
        found = _view_in(readings(dataset, keyword))
        if found in ("PA", "AP"):
            words = tokens(view)
            posture = next((word for word in ("SUPINE", "ERECT") if word in words and found == "AP"), "")
            return f"{found} {posture}".strip()
    code = (dataset.get("ViewCodeSequence") or [None])[0]
    found = None if code is None else _view_in(readings(code, "CodeMeaning"))
    return found if found in ("PA", "AP") else None


def _upright(dataset: Dataset) -> tuple[int, bool]:
    """Quarter turns against the clock, and whether to flip before: the columns have to run to the feet.

    A film that is only mirrored stays as it is, since viewers show it so; of one that lies on its side or stands on its
    head the mirror is set right too.
    """
    rows, columns = _direction(dataset, 0)[:1], _direction(dataset, 1)[:1]
    return {
        # Rows and columns of the film as stored; turned against the clock, the old columns' end is on the right.
        ("R", "H"): (2, False),
        ("L", "H"): (0, True),
        ("H", "L"): (1, False),
        ("F", "R"): (3, False),
        ("H", "R"): (1, True),
        ("F", "L"): (3, True),
    }.get((rows, columns), (0, False))
