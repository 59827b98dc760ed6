"""The picture of an answer as a Secondary Capture: film, map with its scale, regions, and what the model says.

A picture is what every viewer shows. It is grey and colour at display size, so that nobody reads the film from it: the
film itself is in the same study.
"""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from highdicom.sc import SCImage
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from cxr import NOTICE
from pneumoscan.dicom.answer import RGB, Answer
from pneumoscan.dicom.source import MANUFACTURER, Source, finish, result_uid, stub_of

SERIES_NUMBER: Final = 9001
_LEAST_WIDTH: Final = 400  # pixels, so that a sentence has room under a small film
_GROUND: Final = (16, 16, 16)
_INK: Final = (235, 235, 235)
_OUTLINE: Final = (255, 255, 255)
_UPRIGHT: Final = ["L", "F"]


def caption(answer: Answer) -> tuple[str, ...]:
    """The lines under the picture; a number has the digits of the server's reply."""
    band = ", indeterminate" if answer.indeterminate else ""
    return (
        f"{answer.label}{band}: probability of pneumonia {answer.probability}, threshold {answer.threshold} "
        f"({answer.operating_point})",
        f"Model {answer.model.name} {answer.model.version}, weights {answer.model.weights_sha256[:12]}",
        "Red speaks for pneumonia, blue against it; the bar is in logits."
        + (" Outlined: where the map speaks most for pneumonia." if answer.regions else ""),
        NOTICE,
    )


def picture(answer: Answer, shown: RGB) -> RGB:
    """The overlay with outlines and caption: (H, W, 3) uint8.

    Parameters
    ----------
    shown
        The overlay of the reply.
    """
    overlay = Image.fromarray(shown)
    draw = ImageDraw.Draw(overlay)
    zoom = overlay.height / answer.height
    for region in answer.regions:
        corners = [(x * zoom - 0.5, y * zoom - 0.5) for x, y in region.points]
        draw.line([*corners, corners[0]], fill=_OUTLINE, width=max(1, round(overlay.height / 400)))
    width = max(overlay.width, _LEAST_WIDTH)
    size = min(max(width // 55, 12), 22)
    font = ImageFont.load_default(size=size)
    lines = [part for line in caption(answer) for part in _wrapped(line, font, width - 16)]
    step = round(size * 1.4)
    whole = Image.new("RGB", (width, overlay.height + step * len(lines) + 16), _GROUND)
    whole.paste(overlay, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        draw.text((8, overlay.height + 8 + number * step), line, fill=_INK, font=font)
    return np.asarray(whole)


def secondary_capture(answer: Answer, overlay: RGB, source: Source) -> bytes:
    """The DICOM file."""
    stub = stub_of(source)
    capture = SCImage(
        pixel_array=picture(answer, overlay),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # in its place below is the film's, which may be none
        study_instance_uid=source.study_uid,
        series_instance_uid=result_uid(source, "sc series", answer.model),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(source, "sc", answer.model),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=answer.model.name,
        software_versions=answer.model.version,
        series_description=f"{MANUFACTURER} overlay. {NOTICE}",
        patient_id="",
        patient_name="",
        patient_birth_date="",
        patient_sex="",
        study_id="",
        accession_number="",
        referring_physician_name="",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    capture.ConversionType = "WSD"
    capture.ImageComments = "; ".join(caption(answer))
    capture.DerivationDescription = "film with the class activation map of a model"
    film = Dataset()
    film.ReferencedSOPClassUID, film.ReferencedSOPInstanceUID = stub.SOPClassUID, stub.SOPInstanceUID
    capture.SourceImageSequence = [film]
    for keyword in ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"):
        del capture[keyword]
    _keep_facts_of_film(capture, answer, overlay.shape[0], source)
    finish(capture, source)
    return file_bytes(capture)


def file_bytes(result: Dataset) -> bytes:
    """A result as a DICOM file (PS3.10)."""
    stream = io.BytesIO()
    result.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _keep_facts_of_film(capture: Dataset, answer: Answer, shown_height: int, source: Source) -> None:
    """What holds for the picture because it holds for the film.

    Pixel Spacing follows where the film has it, which is then that of the patient; Imager Pixel Spacing does not, since
    a picture has no detector (PS3.3 10.7.1.3). The chest is no paired part (C.7.3.1: Laterality).
    """
    header = source.header
    capture.ImageLaterality = "U"
    directions = _UPRIGHT if answer.turned else header.get("PatientOrientation")
    capture.PatientOrientation = list(directions) if all(source.directions) and directions else None
    spacing = header.get("PixelSpacing")
    if spacing is not None and not isinstance(spacing, str) and len(spacing) == 2:
        rows, columns = (float(one) for one in spacing)
        if answer.turned and source.directions[0] in ("H", "F"):
            rows, columns = columns, rows
        zoom = answer.height / shown_height
        capture.PixelSpacing = [f"{one * zoom:.10g}"[:16] for one in (rows, columns)]
        for keyword in ("PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription"):
            if keyword in header:
                capture.add(header[keyword])
    for keyword in ("BurnedInAnnotation", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in header:
            capture.add(header[keyword])
    if source.is_lossy:
        capture.LossyImageCompression = "01"


def _wrapped(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """A line in as many as it takes, broken between words."""
    lines = [""]
    for word in line.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
