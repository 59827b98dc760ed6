"""An answer as a structured report by template 1500: finding, probability, decision, regions, and who says so.

It is a Comprehensive SR and not a Comprehensive 3D SR: regions lie on a projection and have no place in space, and
more archives and viewers take the older class.

References
----------
DICOM PS3.16 TID 1500, 1501, 1410, 1419 and 4019; PS3.3 A.35.3. The codes of this module's own scheme are described in
docs/hospital.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from cxr import NOTICE
from cxr.serving.regions import LEVEL, Points
from pneumoscan.dicom.answer import Answer
from pneumoscan.dicom.capture import file_bytes
from pneumoscan.dicom.source import MANUFACTURER, Model, Source, equipment_uid, finish, result_uid, stub_of

SERIES_NUMBER: Final = 9002
SCHEME: Final = "99PNEUMOSCAN"


def _own(value: str, meaning: str) -> Code:
    return Code(value, SCHEME, meaning)


FINDING_PNEUMONIA: Final = Code("233604007", "SCT", "Pneumonia")
FINDING_NONE: Final = _own("NO_PNEUMONIA", "No pneumonia seen by the algorithm")
FINDING_REGION: Final = _own("EVIDENCE", "Where the map speaks most for pneumonia")
FINDING_REFUSED: Final = _own("NOT_ANSWERED", "Film not answered by the algorithm")
PROBABILITY: Final = _own("PROBABILITY", "Probability of pneumonia")
THRESHOLD: Final = _own("THRESHOLD", "Threshold of the probability")
SHARE: Final = _own("SHARE", "Share of the evidence")
DECISION: Final = _own("DECISION", "Decision of the algorithm")
AT_OR_ABOVE: Final = _own("AT_OR_ABOVE", "Probability at or above the threshold")
BELOW: Final = _own("BELOW", "Probability below the threshold")
CERTAINTY: Final = _own("CERTAINTY", "Place in the indeterminate band")
INDETERMINATE: Final = Code("82334004", "SCT", "Indeterminate")
OUTSIDE: Final = _own("OUTSIDE_BAND", "Outside the indeterminate band")
REASON: Final = _own("REASON", "Reason why the film was not answered")
USE: Final = _own("USE", "Use of this result")
RESEARCH: Final = _own("RESEARCH", NOTICE)
_CHEST_FILM: Final = Code("399208008", "SCT", "Plain chest X-ray")


def answer_report(answer: Answer, source: Source) -> bytes:
    """The report of an answer as a DICOM file."""
    model = answer.model
    scored = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(source, "sr finding", "Film", model),
        finding_type=_finding(answer.label),
        algorithm_id=_algorithm(answer, f"operating_point={answer.operating_point}"),
        source_images=[sr.SourceImageForMeasurementGroup(*_reference(source))],
        measurements=[
            sr.Measurement(
                PROBABILITY,
                answer.probability,
                codes.UCUM.NoUnits,
                # OHIF 3.12 opens no report that has a group without a place.
                referenced_coordinates=[
                    sr.CoordinatesForMeasurement(
                        "POLYLINE", _whole_film(source), sr.SourceImageForRegion(*_reference(source))
                    )
                ],
            ),
            sr.Measurement(THRESHOLD, answer.threshold, codes.UCUM.NoUnits),
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(DECISION, AT_OR_ABOVE if answer.is_positive else BELOW),
            sr.QualitativeEvaluation(CERTAINTY, INDETERMINATE if answer.indeterminate else OUTSIDE),
            sr.QualitativeEvaluation(USE, RESEARCH),
        ],
    )
    regions = [
        sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=_tracking(source, f"sr region {number}", f"Region {number}", model),
            referenced_region=sr.ImageRegion(
                "POLYLINE",
                np.concatenate([region.points, region.points[:1]]),  # closed: PS3.3 C.10.5.1.2
                sr.SourceImageForRegion(*_reference(source)),
            ),
            finding_type=FINDING_REGION,
            algorithm_id=_algorithm(answer, f"level={LEVEL:g} of the highest value of the map"),
            measurements=[sr.Measurement(SHARE, region.share, codes.UCUM.NoUnits)],
        )
        for number, region in enumerate(answer.stored_regions(source), start=1)
    ]
    return _report([scored, *regions], source, model, "sr", "report")


def refusal_report(code: str, title: str, source: Source) -> bytes:
    """The report of a film that was refused as a DICOM file: that it was not answered, and why.

    Parameters
    ----------
    code, title
        The reason as the server names it, and in one plain sentence.
    """
    refused = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(source, "refusal finding", "Film", None),
        referenced_region=sr.ImageRegion("POLYLINE", _whole_film(source), sr.SourceImageForRegion(*_reference(source))),
        finding_type=FINDING_REFUSED,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(REASON, _own(code, (title or code)[:64])),
            sr.QualitativeEvaluation(USE, RESEARCH),
        ],
    )
    return _report([refused], source, None, "refusal", "no answer")


def _report(
    groups: Sequence[sr.MeasurementsAndQualitativeEvaluations | sr.PlanarROIMeasurementsAndQualitativeEvaluations],
    source: Source,
    model: Model | None,
    kind: str,
    title: str,
) -> bytes:
    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=equipment_uid(model),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=model.name if model else MANUFACTURER,
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, observer),
        ),
        procedure_reported=_CHEST_FILM,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = sr.ComprehensiveSR(
        evidence=[stub_of(source)],
        content=content,
        series_instance_uid=result_uid(source, f"{kind} series", model),
        series_number=SERIES_NUMBER,
        sop_instance_uid=result_uid(source, kind, model),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model.name if model else MANUFACTURER,
        software_versions=model.version if model else None,
        series_description=f"{MANUFACTURER} {title}. {NOTICE}",
        is_complete=True,
        coding_schemes=[
            CodingSchemeIdentificationItem(SCHEME, name="PneumoScan", responsible_organization="PneumoScan")
        ],
    )
    finish(report, source)
    return file_bytes(report)


def _finding(label: str) -> Code:
    known = {"PNEUMONIA": FINDING_PNEUMONIA, "NORMAL": FINDING_NONE}
    return known.get(label) or _own(label, f"Class {label} of the model")


def _algorithm(answer: Answer, *parameters: str) -> sr.AlgorithmIdentification:
    model = answer.model
    digest = f"weights_sha256={model.weights_sha256}"
    return sr.AlgorithmIdentification(model.name, model.version, [digest, f"arch={model.arch}", *parameters])


def _tracking(source: Source, kind: str, name: str, model: Model | None) -> sr.TrackingIdentifier:
    return sr.TrackingIdentifier(uid=result_uid(source, kind, model), identifier=f"{MANUFACTURER} {name}")


def _whole_film(source: Source) -> Points:
    """The outline of the film."""
    width, height = float(source.header.Columns), float(source.header.Rows)
    return np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height], [0.0, 0.0]])


def _reference(source: Source) -> tuple[str, str]:
    return str(source.header.SOPClassUID), source.uid
