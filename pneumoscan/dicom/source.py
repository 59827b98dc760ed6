"""The film that a result belongs to: what is copied from it, what it is called, and what is derived from it.

A result stands in the study of its film. It repeats the attributes of the patient and of the study, so that an archive
files it there, and adds nothing to them. All else that DICOM asks for is derived from the film and the model, so that
the same film gives the same objects to the last byte, however often it is sent.
"""

from __future__ import annotations

import logging
import re
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000, UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from cxr.errors import InputError

MANUFACTURER: Final = "PneumoScan"
# Changed when the objects of the same answer change, since one UID must not name two contents.
_FORM_OF_RESULTS: Final = "1"
_NAMESPACE: Final = uuid.UUID("0f6f2f0c-7a8c-5a39-9d0a-6a2b6a4f3c11")

# Type 2 of the modules below: there, if only empty.
_NEEDED: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
)
_PATIENT: Final = (  # PS3.3 C.7.1.1 and C.7.1.3
    *("IssuerOfPatientID", "TypeOfPatientID", "IssuerOfPatientIDQualifiersSequence", "PatientBirthTime"),
    *("PatientBirthDateInAlternativeCalendar", "PatientDeathDateInAlternativeCalendar", "PatientAlternativeCalendar"),
    *("QualityControlSubject", "ReferencedPatientSequence", "OtherPatientIDs", "OtherPatientIDsSequence"),
    *("OtherPatientNames", "EthnicGroup", "PatientComments", "PatientSpeciesDescription", "PatientSpeciesCodeSequence"),
    *("PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence", "ResponsiblePerson"),
    *("ResponsiblePersonRole", "ResponsibleOrganization", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("DeidentificationMethodCodeSequence", "SourcePatientGroupIdentificationSequence"),
    *("GroupOfPatientsIdentificationSequence", "ClinicalTrialSponsorName", "ClinicalTrialProtocolID"),
    *("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"),
    *("ClinicalTrialSubjectReadingID", "ClinicalTrialProtocolEthicsCommitteeName"),
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
)
_STUDY: Final = (  # PS3.3 C.7.2.1, C.7.2.2 and C.7.2.3
    *("StudyInstanceUID", "StudyDescription", "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName"),
    *("ConsultingPhysicianIdentificationSequence", "IssuerOfAccessionNumberSequence", "PhysiciansOfRecord"),
    *("PhysiciansOfRecordIdentificationSequence", "NameOfPhysiciansReadingStudy", "RequestingServiceCodeSequence"),
    *("PhysiciansReadingStudyIdentificationSequence", "ReferencedStudySequence", "ProcedureCodeSequence"),
    *("ReasonForPerformedProcedureCodeSequence", "AdmittingDiagnosesDescription", "AdmittingDiagnosesCodeSequence"),
    *("PatientAge", "PatientSize", "PatientSizeCodeSequence", "PatientBodyMassIndex", "PatientWeight", "MedicalAlerts"),
    *("Allergies", "SmokingStatus", "PregnancyStatus", "LastMenstrualDate", "PatientState", "Occupation"),
    *("AdditionalPatientHistory", "AdmissionID", "IssuerOfAdmissionIDSequence", "ReasonForVisit"),
    *("ReasonForVisitCodeSequence", "ServiceEpisodeID", "IssuerOfServiceEpisodeIDSequence"),
    *("ServiceEpisodeDescription", "PatientSexNeutered", "ClinicalTrialTimePointID"),
    *("ClinicalTrialTimePointDescription", "ConsentForClinicalTrialUseSequence"),
)
_ENCODING: Final = ("SpecificCharacterSet", "TimezoneOffsetFromUTC")
COPIED: Final = (*_ENCODING, *_NEEDED, *_PATIENT, *_STUDY)

_IDENTITY: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# Where the day of a result comes from: the first that the film has.
_MOMENTS: Final = ("Content", "Acquisition", "Series", "Study", "InstanceCreation")
_LOSS: Final = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_OF_FILM: Final = (
    *("Manufacturer", "Modality", "Rows", "Columns", "NumberOfFrames", "PatientOrientation", "PixelSpacing"),
    *("PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription", "BurnedInAnnotation", *_LOSS),
)
_LOSSY: Final = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000)
_DATE: Final = re.compile(r"\d{8}", re.ASCII)
_TIME: Final = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?", re.ASCII)


def quiet_libraries() -> None:
    """Stop warnings and library logs in this process, for good: they repeat tags that are not as they should be."""
    warnings.simplefilter("ignore")
    for name in ("pydicom", "highdicom", "pynetdicom"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


@dataclass(frozen=True, slots=True)
class Model:
    """The model that answered, as its reply names it."""

    name: str
    version: str
    arch: str
    weights_sha256: str


@dataclass(frozen=True, slots=True)
class Source:
    """The header of a film, as far as results need it; never its pixels."""

    header: Dataset

    @property
    def uid(self) -> str:
        """SOP Instance UID."""
        return str(self.header.SOPInstanceUID)

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return str(self.header.StudyInstanceUID)

    @property
    def is_own_result(self) -> bool:
        """True for what this program made from another film."""
        return str(self.header.get("Manufacturer") or "") == MANUFACTURER

    @property
    def is_image(self) -> bool:
        """False for reports and other objects without pixels."""
        return bool(self.header.get("Rows") and self.header.get("Columns"))

    @property
    def directions(self) -> tuple[str, str]:
        """Where rows and columns run to in the patient, each one of L, R, H, F; empty where no tag says it."""
        value = self.header.get("PatientOrientation") or ()
        parts = [str(part) for part in value] if not isinstance(value, str) else []
        return (parts[0][:1], parts[1][:1]) if len(parts) == 2 else ("", "")

    @property
    def is_lossy(self) -> bool:
        """True where the film was compressed with loss at any time: PS3.3 C.7.6.1.1.5."""
        syntax = self.header.file_meta.get("TransferSyntaxUID")
        return str(self.header.get("LossyImageCompression") or "") == "01" or syntax in _LOSSY

    def moment(self) -> tuple[str, str]:
        """Day and time of a result, DA and TM: those of the film, since a repeat has to give the same object.

        They are the film's content, acquisition, series, study or creation date, the first that it has; without any it
        is the first day of 1900, which nobody takes for a real one.
        """
        for name in _MOMENTS:
            date, time = (str(self.header.get(f"{name}{part}") or "").strip() for part in ("Date", "Time"))
            if _DATE.fullmatch(date):
                return date, time if _TIME.fullmatch(time) else "000000"
        return "19000101", "000000"


def read_source(path: Path) -> Source:
    """The header of a DICOM file.

    Raises
    ------
    InputError
        DAMAGED_IMAGE where it cannot be read or has no UIDs: nothing can be said to belong to it then.
    OSError
        The file cannot be read.
    """
    wanted = [*COPIED, *_IDENTITY, *_OF_FILM, *(f"{name}{part}" for name in _MOMENTS for part in ("Date", "Time"))]
    try:
        header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=wanted)
        header.decode()
        missing = [keyword for keyword in _IDENTITY if not UID(str(header.get(keyword) or "")).is_valid]
    except OSError:
        raise
    except Exception as error:  # pydicom 3.0 raises whatever the damage leads to
        raise InputError("DAMAGED_IMAGE", "the header cannot be read. Export it again.") from error
    if missing:
        raise InputError(
            "DAMAGED_IMAGE", f"no valid {', '.join(missing)}: a result has nothing to belong to. Export it again."
        )
    return Source(header)


def result_uid(source: Source, kind: str, model: Model | None = None) -> str:
    """The UID of what is made of a film by a model: the same for the same three, from a hash (PS3.5 B.2).

    Parameters
    ----------
    kind
        A name such as ``sr``, ``sr series`` or ``sr region 1``.
    model
        None for a film that was refused: no model was asked.
    """
    made_by = (model.weights_sha256, model.name, model.version) if model else ("refused",)
    text = "\n".join((source.uid, kind, _FORM_OF_RESULTS, *made_by))
    return f"2.25.{uuid.uuid5(_NAMESPACE, text).int}"


def equipment_uid(model: Model | None) -> str:
    """The UID of the observer: this program with a model's weights."""
    text = "\n".join((MANUFACTURER, *((model.weights_sha256, model.name, model.version) if model else ())))
    return f"2.25.{uuid.uuid5(_NAMESPACE, text).int}"


def stub_of(source: Source) -> Dataset:
    """The film as highdicom 0.28 needs it to make a result: where it belongs, and nothing of the patient.

    What that library copies it also checks, and refuses a film whose tags are not as they should be.
    """
    stub = Dataset()
    for keyword in _NEEDED:
        setattr(stub, keyword, "")
    for keyword in _IDENTITY:
        setattr(stub, keyword, str(source.header[keyword].value))
    if source.is_image:
        stub.Rows, stub.Columns = int(source.header.Rows), int(source.header.Columns)
    return stub


def finish(result: Dataset, source: Source) -> None:
    """Give a result the attributes of the film's patient and study as they are, and nothing that a repeat changes."""
    for keyword in COPIED:
        if keyword in result:
            del result[keyword]
    for element in _copied(source.header):
        result.add(element)
    for keyword in _NEEDED:
        if keyword not in result:
            setattr(result, keyword, "")
    result.ContentDate, result.ContentTime = source.moment()
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence"):
        if keyword in result:
            del result[keyword]
    meta: Any = result.file_meta
    meta.ImplementationClassUID = f"2.25.{uuid.uuid5(_NAMESPACE, MANUFACTURER).int}"
    meta.ImplementationVersionName = MANUFACTURER.upper()


def _copied(header: Dataset) -> Iterator[Any]:
    for keyword in COPIED:
        if keyword in header:
            yield header[keyword]
