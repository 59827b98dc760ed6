"""Archives that somebody vouches for, and all the others."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from cxr_client import ManagementClient
from pneumoscan.errors import ArchiveRefused, KeyFileError
from pneumoscan.model_store import Archive, Version
from pneumoscan.server.run_folder import RunDir, ServerState
from pneumoscan.signatures import (
    Trust,
    make_key,
    read_private_key,
    retire_key,
    sign,
    signature_file,
    trust_key,
    trust_of,
)
from pneumoscan.versions.changes import register
from pneumoscan.versions.declared import FILE_NAME, Declared, serving_set, write_declared
from pneumoscan.versions.live_server import LiveServer
from pneumoscan.versions.servers import Fleet
from tests.commands import run_command
from tests.pneumoscan.test_model_store import put_archive


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "keys" / "hospital.key"
    make_key(path)
    return path


@pytest.fixture
def store(tmp_path: Path, key: Path) -> Path:
    """A store with one signed archive, whose signer it trusts."""
    folder = tmp_path / "store"
    folder.mkdir()
    sign(put_archive(folder, "1.0.0"), read_private_key(key))
    trust_key(folder / "signers", "hospital", key.with_name("hospital.key.pub"))
    return folder


def trust(store: Path) -> Trust:
    found = trust_of(store, None)
    assert found is not None
    return found


def refused(store: Path, why: str) -> None:
    with pytest.raises(ArchiveRefused, match=why) as caught:
        serving_set(store, trust(store))
    assert caught.value.exit_status == 1
    assert "\n" not in str(caught.value)


def test_a_signed_archive_is_served_and_its_signer_is_named(store: Path) -> None:
    assert serving_set(store, trust(store)).signers == {"1.0.0": "hospital"}
    assert serving_set(store).signers == {}


def test_an_unsigned_archive_is_refused(store: Path) -> None:
    signature_file(store / "pneumonia-1.0.0.mar").unlink()
    refused(store, r"is not signed \(pneumonia-1\.0\.0\.mar\.sig is missing\)")


def test_an_archive_signed_by_a_stranger_is_refused(store: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    sign(store / "pneumonia-1.0.0.mar", read_private_key(tmp_path / "stranger"))
    refused(store, "is signed by nobody in")


def test_a_stranger_who_takes_the_hint_of_a_trusted_key_is_refused(store: Path, tmp_path: Path) -> None:
    path = signature_file(store / "pneumonia-1.0.0.mar")
    hint = json.loads(path.read_bytes())["verificationMaterial"]
    make_key(tmp_path / "stranger")
    sign(store / "pneumonia-1.0.0.mar", read_private_key(tmp_path / "stranger"))
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"verificationMaterial": hint}))
    refused(store, "is signed by nobody in")


def test_an_archive_signed_with_a_retired_key_is_refused_by_its_name(store: Path) -> None:
    retire_key(store / "signers", "hospital")
    refused(store, "is signed by hospital, whose key was retired")


def test_an_archive_packed_again_after_signing_is_refused(store: Path) -> None:
    path = put_archive(store, "1.0.0")
    path.write_bytes(path.read_bytes()[:-2] + b"\x01\x00x")  # a comment: every entry is as it was
    refused(store, "is not the file that hospital signed")


def test_another_archive_with_the_signature_of_the_first_is_refused(store: Path) -> None:
    other = put_archive(store, "1.1.0")
    signature_file(other).write_bytes(signature_file(store / "pneumonia-1.0.0.mar").read_bytes())
    refused(store, r"pneumonia-1\.1\.0\.mar is not the file that hospital signed")


def test_a_bit_flipped_anywhere_in_the_archive_is_refused(store: Path) -> None:
    path = store / "pneumonia-1.0.0.mar"
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(ArchiveRefused, match="is not the file that hospital signed"):
            trust(store).check(Archive(path, Version("1.0.0")))


def changed(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = signature_file(store / "pneumonia-1.0.0.mar")
    bundle = json.loads(path.read_bytes())
    change(bundle)
    path.write_text(json.dumps(bundle))


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: bundle.pop("dsseEnvelope"),
        lambda bundle: bundle.update(mediaType="application/other"),
        lambda bundle: bundle["dsseEnvelope"].update(payloadType="text/plain"),
        lambda bundle: bundle["dsseEnvelope"].update(signatures=[]),
        lambda bundle: bundle["dsseEnvelope"]["signatures"].append(bundle["dsseEnvelope"]["signatures"][0]),
        lambda bundle: bundle["dsseEnvelope"].update(payload="%"),
        lambda bundle: bundle.update(padding="x" * 70_000),
    ],
)
def test_a_signature_of_another_form_is_refused(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    changed(store, change)
    refused(store, "is no valid signature")


def test_a_statement_that_was_changed_after_signing_is_signed_by_nobody(store: Path) -> None:
    def other_digest(bundle: dict[str, Any]) -> None:
        text = base64.b64decode(bundle["dsseEnvelope"]["payload"])
        changed = re.sub(rb'"digest": "[0-9a-f]{64}"', b'"digest": "' + b"0" * 64 + b'"', text)
        assert changed != text
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()

    changed(store, other_digest)
    refused(store, "is signed by nobody in")


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"{" * 50_000, b"1"])
def test_what_is_no_signature_is_refused(store: Path, text: bytes) -> None:
    signature_file(store / "pneumonia-1.0.0.mar").write_bytes(text)
    refused(store, "is no valid signature")


def test_a_store_without_a_file_of_signers_asks_for_none(tmp_path: Path) -> None:
    assert trust_of(tmp_path, None) is None
    with pytest.raises(KeyFileError, match="cannot be read"):
        trust_of(tmp_path, tmp_path / "not-there")


def test_a_file_of_signers_that_others_may_change_trusts_nobody(store: Path) -> None:
    (store / "signers").chmod(0o664)
    with pytest.raises(KeyFileError, match="may be changed by others"):
        trust_of(store, None)
    (store / "signers").chmod(0o644)
    (store / "signers").write_text("hospital trusted AAAA\n")
    with pytest.raises(KeyFileError, match="line 1 is no public key"):
        trust_of(store, None)


def test_a_key_is_kept_for_its_user_and_never_overwritten(key: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    whole = key.read_bytes()
    with pytest.raises(KeyFileError, match="exists"):
        make_key(key)
    assert key.read_bytes() == whole
    key.chmod(0o640)
    with pytest.raises(KeyFileError, match="may be read by others"):
        read_private_key(key)


def test_keys_are_made_trusted_listed_and_retired_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, signers = tmp_path / "my.key", ["--keys", str(tmp_path / "signers")]
    assert run_command("keys", ["make", str(key)]) == 0
    assert run_command("keys", ["trust", "me", "--public", f"{key}.pub", *signers]) == 0
    assert run_command("keys", ["trust", "again", "--public", f"{key}.pub", *signers]) == 2  # known by another name
    assert run_command("keys", ["trust", "private", "--public", str(key), *signers]) == 2
    assert run_command("keys", ["retire", "me", *signers]) == 0
    capsys.readouterr()
    assert run_command("keys", ["signers", "--json", *signers]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "me", "trusted": False}]
    assert run_command("keys", ["retire", "you", *signers]) == 2


def test_a_start_with_an_unsigned_archive_ends_with_1_in_one_line(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--store", str(store), "--run-dir", str(store.parent / "run"), "--device", "cpu"]
    signature_file(store / "pneumonia-1.0.0.mar").unlink()
    assert run_command("serve", where) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_server_is_not_asked_to_load_an_archive_that_is_not_signed_by_who_is_trusted(store: Path) -> None:
    """Its management client is none, so that the first question to the server would be an error."""
    write_declared(store, Declared.first("1.0.0", {"1.0.0": "0" * 64}))
    before = (store / FILE_NAME).read_bytes()
    state = ServerState(1, 2, "http://127.0.0.1:1", "http://127.0.0.1:2", "/nowhere", ["1.0.0"], store=str(store))
    fleet = Fleet(store, (LiveServer(RunDir(store.parent / "run"), state, cast(ManagementClient, None)),), ())
    path = put_archive(store, "1.1.0")
    with pytest.raises(ArchiveRefused, match="is not signed"):
        register(fleet, "1.1.0", 1, 1.0, trust(store))
    sign(path, read_private_key(store.parent / "keys" / "hospital.key"))
    retire_key(store / "signers", "hospital")
    with pytest.raises(ArchiveRefused, match="was retired"):
        register(fleet, "1.1.0", 1, 1.0, trust(store))
    assert (store / FILE_NAME).read_bytes() == before


# What model_signing 1.1.1 wrote about a file of that name with "hello" and a line break in it.
THEIR_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEX/ckukXtPawxsVN1gbzKVVwlpJ1BTLtw+u"
    "FaNDPOAfzfO+Bs8IC1H57A3qcMGodQua5S3DrSBIEB8yJ6+jdGag=="
)
THEIR_SIGNATURE = "MEUCIAawMg/ieWgrZyHt/4pU/JIU5rM0QPENtBbwlOKHLUmAAiEAnTO8G/A36v8hpQHAdQarNgKiuZV24d8LqUhBoA2aX8k="
THEIR_STATEMENT = """{
  "_type": "https://in-toto.io/Statement/v1",
  "subject": [
    {
      "name": "pneumonia-1.0.0.mar",
      "digest": {
        "sha256": "ecb65bb98f9d905b70458986c39fcbad7715e5f2fcc3b1f07767d7c83e2438cc"
      }
    }
  ],
  "predicateType": "https://model_signing/signature/v1.0",
  "predicate": {
    "resources": [
      {
        "name": ".",
        "algorithm": "sha256",
        "digest": "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
      }
    ],
    "serialization": {
      "method": "files",
      "hash_type": "sha256",
      "ignore_paths": [
        ".github",
        ".git",
        ".gitattributes",
        ".gitignore"
      ],
      "allow_symlinks": false
    }
  }
}"""


def test_what_the_tool_of_the_openssf_wrote_is_accepted_for_that_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "pneumonia-1.0.0.mar"
    path.write_text("hello\n")
    payload = base64.b64encode(THEIR_STATEMENT.encode()).decode()
    envelope = {
        "payload": payload,
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": THEIR_SIGNATURE, "keyid": ""}],
    }
    bundle = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
    signature_file(path).write_text(json.dumps(bundle))
    (tmp_path / "signers").write_text(f"they trusted {THEIR_KEY}\n")
    assert trust(tmp_path).check(Archive(path, Version("1.0.0"))) == "they"
    path.write_text("hello.\n")
    with pytest.raises(ArchiveRefused, match="is not the file that they signed"):
        trust(tmp_path).check(Archive(path, Version("1.0.0")))


# --- the real tool ------------------------------------------------------------------------------------------------


def model_signing(*arguments: str) -> subprocess.CompletedProcess[str]:
    """OpenSSF's own tool, from this environment or from one that MODEL_SIGNING_PYTHON names."""
    python = os.environ.get("MODEL_SIGNING_PYTHON")
    if python is None:
        if importlib.util.find_spec("model_signing") is None:
            # In CI too: it needs 38 packages more, and what it wrote once is kept as a value above.
            pytest.skip("no model-signing: name the Python of an environment that has it as MODEL_SIGNING_PYTHON")
        python = sys.executable
    command = [python, "-m", "model_signing", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_tool_of_the_openssf_accepts_our_signature(store: Path, key: Path) -> None:
    path = store / "pneumonia-1.0.0.mar"
    arguments = ("verify", "key", str(path), "--public_key", f"{key}.pub", "--signature", str(signature_file(path)))
    done = model_signing(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    path.write_bytes(path.read_bytes()[:-2] + b"\x01\x00x")
    assert model_signing(*arguments).returncode != 0


def test_a_signature_of_the_tool_of_the_openssf_is_accepted(store: Path, key: Path) -> None:
    path = store / "pneumonia-1.0.0.mar"
    signature_file(path).unlink()
    done = model_signing("sign", "key", str(path), "--private_key", str(key), "--signature", str(signature_file(path)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert trust(store).check(Archive(path, Version("1.0.0"))) == "hospital"
