from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

from cxr import NOTICE
from cxr_client import InferenceClient
from pneumoscan.dicom import report
from pneumoscan.dicom.source import COPIED
from tests import films
from tests.commands import run_command
from tests.cxr.serving.test_regions import mask_of, overlap
from tests.film_server import Answer, FilmServer, problem, serving
from tests.pneumoscan.dicom.model_server import DOUBTFUL, NORMAL, PNEUMONIA, chest_film, model_server
from tests.pneumoscan.dicom.test_answer import as_scanned
from tests.programs import NEEDS_DICOM_TOOLS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FilmServer]:
    with model_server(tmp_path_factory.mktemp("model")) as server:
        yield server


class Made:
    """The results of films by name, made by the command."""

    def __init__(self, folder: Path, url: str, given: Mapping[str, bytes], *words: str) -> None:
        self.source, self.out = folder / "in", folder / "out"
        for name, data in given.items():
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.status = run_command("dicom", ["results", str(self.source), str(self.out), "--url", url, *words])
        self.films = {film["file"]: film for film in json.loads((self.out / "result.json").read_text())["films"]}

    def path(self, name: str, kind: str) -> Path:
        (found,) = [one for one in self.films[name]["objects"] if one["kind"] == kind]
        return self.out / str(found["file"])

    def read(self, name: str, kind: str) -> Dataset:
        return dcmread(self.path(name, kind))

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.out.iterdir()}


def numbers_of(dataset: Dataset) -> dict[str, list[float]]:
    """The measurements of a report by the code of their name."""
    found: dict[str, list[float]] = {}
    for group in groups_of(dataset):
        for item in group.ContentSequence:
            if item.ValueType == "NUM":
                code = item.ConceptNameCodeSequence[0].CodeValue
                found.setdefault(code, []).append(float(item.MeasuredValueSequence[0].NumericValue))
    return found


def codes_of(dataset: Dataset) -> list[str]:
    """The coded values of a report, in their order."""
    items = [item for group in groups_of(dataset) for item in group.ContentSequence if item.ValueType == "CODE"]
    return [value_of(item.ConceptCodeSequence[0]) for item in items]


def value_of(code: Dataset) -> str:
    return str(code.get("CodeValue") or code.LongCodeValue)


def groups_of(dataset: Dataset) -> list[Dataset]:
    (measurements,) = [item for item in dataset.ContentSequence if item.get("ContinuityOfContent")]
    return list(measurements.ContentSequence)


def polygons_of(dataset: Dataset) -> list[np.ndarray[Any, Any]]:
    regions = [item for group in groups_of(dataset) for item in group.ContentSequence if item.ValueType == "SCOORD"]
    return [np.reshape(item.GraphicData, (-1, 2)) for item in regions]


# --- what is said -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [PNEUMONIA, NORMAL, DOUBTFUL])
def test_picture_report_and_record_say_what_the_server_replies(tmp_path: Path, server: FilmServer, seed: int) -> None:
    film = chest_film(seed)
    made = Made(tmp_path, server.url, {"film.dcm": film})
    with InferenceClient(server.url) as client:
        reply = client.predict(film, "grid", "contrast")
    probability = reply["probabilities"]["PNEUMONIA"]
    record, capture, said = made.films["film.dcm"], made.read("film.dcm", "SC"), made.read("film.dcm", "SR")
    assert made.status == 0
    assert record["outcome"] == "answered"
    assert record["label"] == reply["label"] == ("PNEUMONIA" if seed == PNEUMONIA else "NORMAL")
    assert record["probabilities"] == reply["probabilities"]
    assert record["decision"] == reply["decision"]
    assert record["decision"]["indeterminate"] == (seed == DOUBTFUL)
    assert numbers_of(said)["PROBABILITY"] == [probability]
    assert numbers_of(said)["THRESHOLD"] == [reply["decision"]["threshold"]]
    (shown,) = re.findall(r"probability of pneumonia ([0-9.e-]+),", capture.ImageComments)
    assert float(shown) == probability
    assert capture.ImageComments.startswith(reply["label"])
    assert NOTICE in capture.ImageComments
    finding = "233604007" if reply["label"] == "PNEUMONIA" else "NO_PNEUMONIA"
    decision = "AT_OR_ABOVE" if reply["label"] == "PNEUMONIA" else "BELOW"
    certainty = "82334004" if seed == DOUBTFUL else "OUTSIDE_BAND"
    assert codes_of(said)[:4] == [finding, decision, certainty, "RESEARCH"]


def test_the_polygons_of_report_and_record_are_the_regions_of_the_servers_map(
    tmp_path: Path, server: FilmServer
) -> None:
    film = chest_film(PNEUMONIA)
    made = Made(tmp_path, server.url, {"film.dcm": film})
    with InferenceClient(server.url) as client:
        grid = np.array(client.predict(film, "grid", "contrast")["cam"]["grid"], dtype=np.float32)
    from cxr.model.cam import upsample

    expected = upsample(grid, 300, 260) >= grid.max() / 2
    polygons = polygons_of(made.read("film.dcm", "SR"))
    assert overlap(np.any([mask_of(one, 300, 260) for one in polygons], axis=0), expected) > 0.97
    for polygon, region in zip(polygons, made.films["film.dcm"]["regions"], strict=True):
        assert polygon[0].tolist() == polygon[-1].tolist()  # closed
        assert polygon[:-1].tolist() == region["points"]


def test_highdicom_reads_the_report_back(tmp_path: Path, server: FilmServer) -> None:
    made = Made(tmp_path, server.url, {"film.dcm": chest_film(PNEUMONIA)})
    source = dcmread(made.source / "film.dcm")
    content = highdicom.sr.srread(made.path("film.dcm", "SR")).content
    assert isinstance(content, highdicom.sr.MeasurementReport)
    (scored,) = content.get_image_measurement_groups()
    assert scored.finding_type == report.FINDING_PNEUMONIA
    assert scored.get_measurements(report.PROBABILITY)[0].value == made.films["film.dcm"]["probabilities"]["PNEUMONIA"]
    regions = content.get_planar_roi_measurement_groups()
    assert len(regions) == len(made.films["film.dcm"]["regions"]) > 0
    for region in regions:
        assert region.roi.value.shape[1] == 2
        assert region.roi.graphic_type.value == "POLYLINE"
        assert region.tracking_identifier.startswith("PneumoScan Region")
        (image,) = [item for item in region.roi.ContentSequence if item.ValueType == "IMAGE"]
        assert image.referenced_sop_instance_uid == source.SOPInstanceUID
    digests = re.findall(rb"weights_sha256=(.{64})", made.path("film.dcm", "SR").read_bytes())
    assert {digest.decode() for digest in digests} == {made.films["film.dcm"]["model"]["weights_sha256"]}


def test_every_group_of_a_report_has_a_place_on_the_film(tmp_path: Path, server: FilmServer) -> None:
    """OHIF 3.12 opens no other report: its first measurement, or the group itself, has coordinates."""
    given = {"a": chest_film(PNEUMONIA), "b": chest_film(NORMAL), "c": chest_film(7, ViewPosition="LL")}
    made = Made(tmp_path, server.url, given, "--refusals", "sr")
    for name in given:
        for group in groups_of(made.read(name, "SR")):
            measurement = next((item for item in group.ContentSequence if item.ValueType == "NUM"), group)
            places = [*group.ContentSequence, *measurement.get("ContentSequence", [])]
            assert "SCOORD" in {item.ValueType for item in places}
    (whole,) = [
        item.ContentSequence[0].GraphicData
        for item in groups_of(made.read("b", "SR"))[0].ContentSequence
        if item.ValueType == "NUM" and "ContentSequence" in item
    ]
    assert list(whole) == [0, 0, 260, 0, 260, 300, 0, 300, 0, 0]


def test_a_film_that_is_called_normal_has_no_region(tmp_path: Path, server: FilmServer) -> None:
    made = Made(tmp_path, server.url, {"film.dcm": chest_film(NORMAL)})
    assert made.films["film.dcm"]["regions"] == []
    assert polygons_of(made.read("film.dcm", "SR")) == []


def test_the_picture_is_the_servers_overlay_with_outlines_and_a_caption(tmp_path: Path, server: FilmServer) -> None:
    made = Made(tmp_path, server.url, {"film.dcm": chest_film(PNEUMONIA)})
    with InferenceClient(server.url) as client:
        overlay = np.asarray(Image.open(io.BytesIO(client.overlay(chest_film(PNEUMONIA), "contrast"))))
    picture = made.read("film.dcm", "SC").pixel_array
    height, width = overlay.shape[:2]
    changed = (picture[:height, :width] != overlay).any(axis=2)
    assert 0 < changed.sum() < 0.05 * height * width  # outlines
    assert (picture[:height, :width][changed] == 255).all()
    assert picture.shape[0] > height
    assert (picture[height:] > 200).any()  # letters


@pytest.mark.parametrize("directions", [("R", "H"), ("L", "H"), ("H", "L"), ("F", "R"), ("H", "R"), ("F", "L")])
def test_the_region_of_a_turned_film_lies_on_the_film_as_it_is_stored(
    tmp_path: Path, server: FilmServer, directions: tuple[str, str]
) -> None:
    upright = films.film(PNEUMONIA, 300, 260)
    scanned = chest_film(pixels=as_scanned(upright, directions), name="scanned", PatientOrientation=[*directions])
    made = Made(tmp_path, server.url, {"upright": chest_film(), "scanned": scanned})
    assert "turned" in made.films["scanned"]["flags"]
    for plain, turned in zip(*(polygons_of(made.read(one, "SR")) for one in ("upright", "scanned")), strict=True):
        expected = as_scanned(mask_of(plain, 300, 260), directions)
        assert overlap(mask_of(turned, *expected.shape), expected) > 0.97
    assert list(made.read("scanned", "SC").PatientOrientation) == ["L", "F"]


# --- where it belongs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SC", "SR"])
def test_a_result_stands_in_the_study_in_a_series_of_its_own(tmp_path: Path, server: FilmServer, kind: str) -> None:
    given = {"one": chest_film(PNEUMONIA), "two": chest_film(NORMAL)}
    made = Made(tmp_path, server.url, given)
    uids = []
    for name, data in given.items():
        film, result = dcmread(io.BytesIO(data)), made.read(name, kind)
        assert result.StudyInstanceUID == film.StudyInstanceUID
        assert film.SOPInstanceUID in str(result)
        uids += [result.SeriesInstanceUID, result.SOPInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID]
    assert len(set(uids)) == len(uids)


def test_a_repeat_gives_the_same_bytes(tmp_path: Path, server: FilmServer) -> None:
    given = {f"{seed}.dcm": chest_film(seed) for seed in (PNEUMONIA, NORMAL)}
    given["lateral.dcm"] = chest_film(7, ViewPosition="LL")
    first = Made(tmp_path / "first", server.url, given, "--refusals", "sr")
    again = Made(tmp_path / "again", server.url, given, "--refusals", "sr", "--jobs", "1")
    assert len(first.files) == 6
    assert first.files == again.files


def test_a_film_has_the_same_results_in_every_transfer_syntax(tmp_path: Path, server: FilmServer) -> None:
    code, physician = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399208008", "SCT", "Plain chest X-ray"
    physician.PersonIdentificationCodeSequence = [code]
    tags = {"ProcedureCodeSequence": [code], "ReferringPhysicianIdentificationSequence": [physician]}
    given = {
        "explicit": chest_film(**tags),
        "implicit": chest_film(syntax=ImplicitVRLittleEndian, **tags),
        "deflated": chest_film(syntax=DeflatedExplicitVRLittleEndian, **tags),
        "lossless": films.compressed(chest_film(**tags), JPEGLosslessSV1),
    }
    made = [Made(tmp_path / name, server.url, {"film": data}).files for name, data in given.items()]
    assert made[0] == made[1] == made[2] == made[3]
    assert sum(b"Plain chest X-ray" in data for data in made[0].values()) == 2


def test_what_is_said_of_the_patient_is_the_films_and_nothing_else(tmp_path: Path, server: FilmServer) -> None:
    """A canary in each of these tags is in both results if it is of patient or study, and nowhere if it is not."""
    copied = [
        *("PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientNames", "EthnicGroup", "PatientComments"),
        *("ResponsiblePerson", "ReferringPhysicianName", "StudyID", "AccessionNumber", "StudyDescription"),
        *("PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "AdmittingDiagnosesDescription", "MedicalAlerts"),
        *("Allergies", "Occupation", "AdditionalPatientHistory", "AdmissionID", "ReasonForVisit"),
    ]
    others = [
        *("InstitutionName", "InstitutionAddress", "StationName", "OperatorsName", "PerformingPhysicianName"),
        *("SeriesDescription", "ProtocolName", "ImageComments", "DeviceSerialNumber", "PerformedProcedureStepID"),
        *("RequestingPhysician", "PatientAddress", "PatientMotherBirthName", "MilitaryRank", "RequestedProcedureID"),
    ]
    tags = {keyword: f"CANARY{number}END" for number, keyword in enumerate([*copied, *others])}
    made = Made(tmp_path, server.url, {"film.dcm": chest_film(**tags)})
    assert set(copied) <= set(COPIED)
    for kind in ("SC", "SR"):
        data = made.path("film.dcm", kind).read_bytes()
        assert {keyword for keyword, canary in tags.items() if canary.encode() in data} == {*copied}
    assert "CANARY" not in json.dumps(made.films)


def test_tags_that_are_not_as_they_should_be_are_copied_as_they_are(tmp_path: Path, server: FilmServer) -> None:
    odd = {"PatientSex": "X", "PatientName": "no caret", "PatientBirthDate": "", "SpecificCharacterSet": "ISO_IR 144"}
    film = chest_film(**{**odd, "PatientName": "Иванов^Пётр", "PatientID": None, "StudyDate": None})
    made = Made(tmp_path, server.url, {"film.dcm": film})
    for kind in ("SC", "SR"):
        result = made.read("film.dcm", kind)
        assert result.PatientSex == "X"
        assert str(result.PatientName) == "Иванов^Пётр"
        assert result.PatientName.original_string == dcmread(io.BytesIO(film)).PatientName.original_string
        assert (result.PatientID, result.StudyDate) == ("", "")


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, ("20250102", "101112")),
        ({"ContentDate": "20250103", "ContentTime": "0102"}, ("20250103", "0102")),
        ({"AcquisitionDate": "20250104"}, ("20250104", "000000")),
        ({"StudyDate": "yesterday"}, ("19000101", "000000")),
    ],
)
def test_the_day_of_a_result_is_the_films(
    tmp_path: Path, server: FilmServer, tags: dict[str, str], expected: tuple[str, str]
) -> None:
    made = Made(tmp_path, server.url, {"film.dcm": chest_film(**tags)})
    for kind in ("SC", "SR"):
        result = made.read("film.dcm", kind)
        assert (result.ContentDate, result.ContentTime) == expected


def test_spacing_follows_only_where_it_is_that_of_the_patient(tmp_path: Path, server: FilmServer) -> None:
    tall = np.repeat(np.repeat(films.film(PNEUMONIA, 300, 260), 7, axis=0), 7, axis=1)
    given = {
        "calibrated": chest_film(name="1", pixels=tall, PixelSpacing=[0.2, 0.1]),
        "detector": chest_film(name="2", ImagerPixelSpacing=[0.2, 0.2]),
    }
    made = Made(tmp_path, server.url, given)
    zoom = 2100 / 1024  # a picture has at most 1024 pixels a side
    spacing = [float(one) for one in made.read("calibrated", "SC").PixelSpacing]
    assert spacing == pytest.approx([0.2 * zoom, 0.1 * zoom])
    result = made.read("detector", "SC")
    assert "PixelSpacing" not in result
    assert "ImagerPixelSpacing" not in result
    assert "Laterality" not in result


def test_a_film_that_was_compressed_with_loss_stays_marked(tmp_path: Path, server: FilmServer) -> None:
    tags = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "12"}
    given = {"lossy": chest_film(name="1", **tags), "whole": films.compressed(chest_film(name="2"), JPEGLosslessSV1)}
    made = Made(tmp_path, server.url, given)
    assert made.read("lossy", "SC").LossyImageCompression == "01"
    assert made.read("lossy", "SC").LossyImageCompressionRatio == 12
    assert "LossyImageCompression" not in made.read("whole", "SC")


# --- what has no result -------------------------------------------------------------------------------------------


def refused_files() -> dict[str, bytes]:
    report = chest_film(name="report", Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22")
    return {
        "lateral": chest_film(name="lateral", ViewPosition="LL"),
        "ct": chest_film(name="ct", Modality="CT", SOPClassUID=CTImageStorage),
        "report": report,
        "damaged": chest_film(name="damaged")[:-9000],
        "text.dcm": b"no DICOM at all",
    }


def test_a_lateral_view_a_ct_and_a_report_have_no_result_and_a_reason(
    tmp_path: Path, server: FilmServer, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(tmp_path, server.url, refused_files())
    log = capsys.readouterr().err
    expected = {
        **{"lateral": "NOT_FRONTAL", "ct": "NOT_A_RADIOGRAPH", "report": "NOT_A_RADIOGRAPH"},
        **{"damaged": "DAMAGED_IMAGE", "text.dcm": "DAMAGED_IMAGE"},
    }
    assert made.status == 0
    assert {name: film["reason"]["code"] for name, film in made.films.items()} == expected
    assert {film["outcome"] for film in made.films.values()} == {"refused"}
    assert list(made.files) == ["result.json"]
    for film in made.films.values():
        assert f"film {film['number']}: refused: {film['reason']['code']}: {film['reason']['detail']}" in log


def test_on_request_a_refusal_is_a_report_without_a_picture(tmp_path: Path, server: FilmServer) -> None:
    made = Made(tmp_path, server.url, refused_files(), "--refusals", "sr")
    said = made.read("lateral", "SR")
    assert codes_of(said) == ["NOT_ANSWERED", "NOT_FRONTAL", "RESEARCH"]
    assert numbers_of(said) == {}
    assert said.StudyInstanceUID == dcmread(made.source / "lateral").StudyInstanceUID
    assert not list(made.out.glob("sc-*"))
    assert made.films["text.dcm"]["objects"] == []


def test_own_results_and_films_that_come_twice_are_skipped(tmp_path: Path, server: FilmServer) -> None:
    first = Made(tmp_path / "first", server.url, {"film": chest_film()})
    given = {"1": chest_film(), "2": chest_film(), **first.files}
    made = Made(tmp_path / "again", server.url, given)
    states = {name: (film["outcome"], film.get("reason", {}).get("code")) for name, film in made.films.items()}
    assert states.pop("1") == ("answered", None)
    assert states.pop("2") == ("skipped", "DUPLICATE")
    assert set(states.values()) == {("skipped", "OWN_RESULT")}
    assert len(states) == 2


def test_a_server_that_is_away_or_full_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(tmp_path / "away", "http://127.0.0.1:9", {"a": chest_film(PNEUMONIA), "b": chest_film(NORMAL)})
    assert made.status == 1
    assert [film["reason"]["code"] for film in made.films.values()] == ["UNREACHABLE", "UNREACHABLE"]
    with serving(FilmServer(lambda _: problem(503, "OVERLOADED", "The queue is full.", retryable=True))) as full:
        made = Made(tmp_path / "full", full.url, {"a": chest_film()})
    assert (made.status, made.films["a"]["reason"]["code"]) == (1, "OVERLOADED")
    with serving(FilmServer(lambda _: problem(404, "ModelNotFoundException", "Model not found."))) as other:
        made = Made(tmp_path / "other", other.url, {"a": chest_film()}, "--refusals", "sr")
    assert (made.status, made.films["a"]["outcome"], made.films["a"]["objects"]) == (1, "failed", [])
    assert "film 1: failed: ModelNotFoundException" in capsys.readouterr().err


@pytest.mark.parametrize(
    "reply", [b"{}", b'{"label": "PNEUMONIA"}', b"[]", pytest.param(None, id="about another film")]
)
def test_a_reply_that_is_none_of_ours_makes_no_object(tmp_path: Path, server: FilmServer, reply: bytes | None) -> None:
    if reply is None:
        with InferenceClient(server.url) as client:
            other = chest_film(pixels=films.film(0, 200, 200))
            reply = json.dumps(client.predict(other, "overlay", "contrast")).encode()
    with serving(FilmServer(lambda _: Answer(200, reply, {"Content-Type": "application/json"}))) as strange:
        made = Made(tmp_path, strange.url, {"film": chest_film()})
    assert (made.status, made.films["film"]["outcome"]) == (1, "failed")
    assert list(made.files) == ["result.json"]


# --- the folder ---------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_without_force(
    tmp_path: Path, server: FilmServer, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(tmp_path, server.url, {"a": chest_film(PNEUMONIA), "b": chest_film(NORMAL)})
    before = made.files
    words = ["results", str(made.source), str(made.out), "--url", server.url]
    assert run_command("dicom", words) == 2
    assert "is not empty: give --force" in capsys.readouterr().err
    assert made.files == before
    (made.source / "b").unlink()
    (made.out / "notes.txt").write_text("mine")
    assert run_command("dicom", [*words, "--force"]) == 0
    left = {name for name in made.files if name.endswith(".dcm")}
    assert len(left) == 2  # those of the film that is gone went with it
    assert {name: before[name] for name in left} == {name: made.files[name] for name in left}
    assert made.files["notes.txt"] == b"mine"


def test_a_result_is_whole_or_not_there(tmp_path: Path, server: FilmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full once the picture is written."""
    from pneumoscan.dicom import results

    def full(path: Path, data: bytes) -> None:
        if path.name.startswith("sr-"):
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(data)

    monkeypatch.setattr(results, "write_bytes", full)
    made = Made(tmp_path, server.url, {"film": chest_film()})
    assert made.films["film"]["reason"]["detail"] == "No space left on device"
    assert (made.status, list(made.files)) == (1, ["result.json"])


def test_one_film_may_be_named_and_json_prints_the_record(
    tmp_path: Path, server: FilmServer, capsys: pytest.CaptureFixture[str]
) -> None:
    film, out = tmp_path / "Doe^Jane.bin", tmp_path / "out"
    film.write_bytes(chest_film())
    assert run_command("dicom", ["results", str(film), str(out), "--url", server.url, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out == (out / "result.json").read_text()
    assert json.loads(printed.out)["films"][0]["file"] == "Doe^Jane.bin"
    assert re.fullmatch(r"pneumoscan dicom results: film 1: PNEUMONIA 0\.\d{3}\n", printed.err)


def test_what_libraries_say_of_odd_tags_is_not_in_the_log(tmp_path: Path, server: FilmServer) -> None:
    odd = {"PatientBirthDate": "CANARY", "PatientAge": "CANARY", "StudyTime": "CANARY", "PatientSex": "canary*"}
    (tmp_path / "CANARY.dcm").write_bytes(chest_film(**odd))
    words = ["results", str(tmp_path), str(tmp_path / "out"), "--url", server.url]
    done = subprocess.run([sys.executable, "-m", "pneumoscan", "dicom", *words], capture_output=True, text=True)
    assert re.fullmatch(r"pneumoscan dicom results: film 1: PNEUMONIA 0\.\d{3}\n", done.stderr)
    assert done.stdout == f"1 answered: {tmp_path / 'out' / 'result.json'}\n"


def test_a_folder_without_dicom_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "picture.png").write_bytes(films.encoded(films.film()))
    assert run_command("dicom", ["results", str(tmp_path), str(tmp_path / "out")]) == 2
    assert run_command("dicom", ["results", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "no DICOM file in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- other programs -----------------------------------------------------------------------------------------------


@NEEDS_DICOM_TOOLS
def test_dicom_validators_find_no_error_and_dsrdump_reads_the_reports(tmp_path: Path, server: FilmServer) -> None:
    given = {
        "pneumonia": chest_film(PNEUMONIA, PixelSpacing=[0.2, 0.2]),
        "normal": chest_film(NORMAL, PatientOrientation=None),
        "lateral": chest_film(7, ViewPosition="LL"),
        "turned": chest_film(DOUBTFUL, PatientOrientation=["R", "H"], SpecificCharacterSet="ISO_IR 192"),
        "long code": chest_film(8, name="odd", NumberOfFrames=1, PhotometricInterpretation="HSV"),
    }
    made = Made(tmp_path, server.url, given, "--refusals", "sr")
    files = sorted(made.out.glob("*.dcm"))
    assert len(files) == 8
    for path in files:
        done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
        told = (done.stdout + done.stderr).splitlines()
        assert [line for line in told if line.startswith("Error")] == []
        warnings = {re.sub(r"value \d+", "value", line) for line in told if line.startswith("Warning")}
        assert warnings <= {
            # A private scheme, which the report identifies.
            "Warning - Unrecognized defined term <99PNEUMOSCAN> for value of attribute <Coding Scheme Designator>"
        }, path
    for path in made.out.glob("sr-*.dcm"):
        done = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, check=True)
        assert "Imaging Measurement Report" in done.stdout
        assert not re.search("^[EF]:", done.stderr, re.MULTILINE)


def test_every_private_code_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "hospital.md").read_text(encoding="utf-8")
    own = [one for one in vars(report).values() if getattr(one, "scheme_designator", "") == report.SCHEME]
    assert len(own) > 10
    for code in own:
        assert f"| `{code.value}` | {code.meaning} |" in page


def test_making_results_needs_no_torch() -> None:
    code = "import sys, pneumoscan.dicom.results as _; sys.exit('torch' in sys.modules or 'cxr.films' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
