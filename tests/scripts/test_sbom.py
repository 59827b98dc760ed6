from __future__ import annotations

import json
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from scripts import audit, licences, sbom
from scripts.sbom import JarPart, parts_of


def test_a_jar_tells_its_libraries_in_every_way_it_can(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.jar", "w") as jar:
        jar.writestr("META-INF/maven/org.a/b/pom.properties", "#made\ngroupId=org.a\nartifactId=b\nversion=1.2\n")
        jar.writestr("META-INF/maven/org.a/c/pom.properties", "groupId=org.a\n")
        jar.writestr("META-INF/io.netty.versions.properties", "netty-codec.version=4.1\nnetty-codec.buildDate=x\n")
        jar.writestr("META-INF/DEPENDENCIES", " - X (http://x) org.d:e:jar:3.4\n    License: none\n")
        jar.writestr("com/google/gson/Gson.class", b"")
        jar.writestr("unknown/Thing.class", b"")
    assert parts_of(tmp_path / "x.jar") == [
        JarPart("com.google.code.gson", "gson", None),
        JarPart("io.netty", "netty-codec", "4.1"),
        JarPart("org.a", "b", "1.2"),
        JarPart("org.d", "e", "3.4"),
    ]


def test_the_bill_of_materials_is_cyclonedx_and_names_torch_and_the_netty_inside_torchserve(tmp_path: Path) -> None:
    out = tmp_path / "sbom.json"
    assert sbom.main(["--out", str(out)]) == 0
    text = out.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    versions = {component["name"]: component.get("version") for component in components}
    assert versions["torch"] == metadata.version("torch")
    inside = next(one["components"] for one in components if one["name"] == "model-server.jar")
    netty = next(part for part in inside if part["name"] == "netty-codec-http")
    assert netty["purl"] == f"pkg:maven/io.netty/netty-codec-http@{netty['version']}"
    assert str(tmp_path) not in text


def test_every_class_in_torchserve_belongs_to_a_library_that_is_named() -> None:
    import ts

    (jar,) = (Path(ts.__file__).parent / "frontend").glob("*.jar")
    with zipfile.ZipFile(jar) as packed:
        classes = [name for name in packed.namelist() if name.endswith(".class") and "module-info" not in name]
    assert len(classes) > 20_000
    assert [name for name in classes if licences.library_of(name) is None] == []
    named = {(part.group, part.name) for part in parts_of(jar)}
    for library in licences.BY_FOLDER.values():
        assert (library.group, library.name) in named


def test_every_licence_of_what_serves_is_known_and_allowed() -> None:
    packages = licences.serving_packages()
    assert len(packages) > 40
    found = {name: licences.python_licence(name) for name in packages}
    found |= {f"{part.group}:{part.name}": licences.java_licence(part.group) for part in _java_parts()}
    assert [name for name, licence in found.items() if licence is None] == []
    other = {
        name: licence
        for name, licence in found.items()
        if not licences.parts_of_expression(str(licence)) <= licences.ALLOWED
    }
    assert other == {}


def _java_parts() -> list[JarPart]:
    import ts

    return [part for jar in (Path(ts.__file__).parent / "frontend").glob("*.jar") for part in parts_of(jar)]


def test_the_bill_of_materials_names_licences_and_the_java_runtime_that_is_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sbom.main([]) == 0
    components = {one["name"]: one for one in json.loads(capsys.readouterr().out)["components"]}
    assert components["torch"]["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert components["openjdk"]["version"].startswith("25")
    assert components["openjdk"]["type"] == "platform"
    assert [one for one in components["model-server.jar"]["components"] if not one.get("licenses")] == []


def test_the_notice_is_that_of_what_is_installed() -> None:
    """Written again by make notice."""
    assert (Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8") == sbom.notice()


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sbom.json"
    out.write_text("mine")
    assert sbom.main(["--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert "give --force" in capsys.readouterr().err


def test_pip_audit_is_asked_about_what_an_index_has_and_not_about_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --strict it fails on an editable package, skipped or not."""
    asked: list[list[str]] = []

    def run(command: list[str]) -> tuple[dict[str, object], str]:
        assert "--strict" in command
        asked.append(Path(command[-1]).read_text().split())
        return {"dependencies": [{"name": "x", "version": "1", "vulns": [{"id": "C", "fix_versions": []}]}]}, ""

    monkeypatch.setattr(audit, "_run", run)
    assert audit.audit().found == ("x 1: C, fixed in none",)
    probe, whole = asked
    assert probe == ["requests==2.19.0"]
    assert f"torch=={metadata.version('torch')}" in whole
    assert f"pip-audit=={metadata.version('pip-audit')}" in whole
    assert not [line for line in whole if line.startswith("pneumoscan")]


@pytest.mark.parametrize(
    ("answers", "said", "code"),
    [
        ([None], "not checked: no network", 1),
        ([[]], "not checked: the vulnerability service does not know", 1),
        ([["known"], None], "not checked: no network", 1),
        ([["known"], []], "no known vulnerability", 0),
        ([["known"], ["CVE-1"]], "thing 1: CVE-1, fixed in 2", 1),
    ],
)
def test_a_service_that_knows_nothing_is_no_clean_bill(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[list[str] | None],
    said: str,
    code: int,
) -> None:
    def ask(_arguments: object) -> tuple[dict[str, object] | None, str]:
        answer = answers.pop(0)
        if answer is None:
            return None, "no network"
        vulns = [{"id": one, "fix_versions": ["2"]} for one in answer]
        return {"dependencies": [{"name": "thing", "version": "1", "vulns": vulns}]}, ""

    monkeypatch.setattr(audit, "_ask", ask)
    assert audit.main([]) == code
    assert said in capsys.readouterr().out
