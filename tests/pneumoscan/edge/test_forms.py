from __future__ import annotations

from pathlib import Path

import pytest

from pneumoscan.edge.forms import BAD_FORM, MOST_PARTS, REPEATED_OPTION, SEVERAL_FILMS, why_not

D = "Content-Disposition: form-data; "


def form(*heads: str, end: bytes = b"--XX--\r\n") -> bytes:
    return b"".join(f"--XX\r\n{head}\r\n\r\n".encode() + b"film\r\n" for head in heads) + end


def judged(path: Path, body: bytes, kind: str = "multipart/form-data; boundary=XX") -> str | None:
    path.write_bytes(body)
    return why_not(path, kind)


@pytest.mark.parametrize(
    "body",
    [
        form(f'{D}name="film"'),
        form(f"{D}name=film"),
        form(f'{D}name="a \\" quote"; filename="x; name=y.png"\r\nContent-Type: image/png'),
        form(f'{D}name="cam"', f'{D}name="view"', f'{D}name="film"; filename="x"'),
        form(f"{D}name=\"film\"; filename*=UTF-8''L%C3%BCge%20a.dcm"),
        form(f'{D}name="film"\r\nContent-Transfer-Encoding: binary\r\nContent-Type: text/plain; charset=utf-8'),
        b"preamble\r\n" + form(f'{D}name="film"'),
        form(f'{D}name="film"', end=b"--XX--epilogue"),
        form(*[f'{D}name="{n}"' for n in range(MOST_PARTS)]),
        b'--XX\r\nContent-Disposition: form-data; name="film"\r\n\r\n\r\n--XX--',
    ],
)
def test_a_form_with_one_film_is_passed_on(tmp_path: Path, body: bytes) -> None:
    assert judged(tmp_path / "body", body) is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (form(f'{D}name="film"', f'{D}name="film"'), SEVERAL_FILMS),
        (form(f'{D}name="a"; filename="x"', f"{D}name=\"b\"; filename*=UTF-8''y"), SEVERAL_FILMS),
        (form(f'{D}name="view"', f'{D}name="film"', f"{D}name=view"), REPEATED_OPTION),
        (form(f'{D}filename="x"'), BAD_FORM),
        (form(f'{D}xname="x"'), BAD_FORM),
        (form(f'{D}name=""'), BAD_FORM),
        (form('Content-Disposition: attachment; name="film"'), BAD_FORM),
        (form("Content-Type: image/png"), BAD_FORM),
        (form(f'{D}name="film"\r\nContent-Transfer-Encoding: base64'), BAD_FORM),
        (form(f'{D}name="film"\r\nContent-Type: multipart/mixed'), BAD_FORM),
        (form(f'{D}name="film"\r\nContent-Type: text/plain; charset="none-such"'), BAD_FORM),
        (form(f'{D}name="film"\r\nContent-Length: 4'), BAD_FORM),
        (form(f'{D}name="film"\r\nno colon'), BAD_FORM),
        (form(f'{D}name="film"\r\n{D}name="film"'), BAD_FORM),
        (form(f"{D}name=\"film\"; filename*=UTF-8''%zz"), BAD_FORM),
        (form(f"{D}name=\"film\"; filename*=UTF-8''%ff"), BAD_FORM),
        (form(f"{D}name=\"film\"; filename*=none-such''x"), BAD_FORM),
        (form(f'{D}name="film"; x="{"y" * 9000}"'), BAD_FORM),
        (form(*[f'{D}name="{n}"' for n in range(MOST_PARTS + 1)]), BAD_FORM),
        (form(f'{D}name="film"', end=b""), BAD_FORM),
        (form(end=b"--XX--"), BAD_FORM),
        (b"--XX\r\nContent-Disposition", BAD_FORM),
        (b"no form", BAD_FORM),
        (b"", BAD_FORM),
    ],
)
def test_a_form_that_torchserve_would_misread_has_a_problem(tmp_path: Path, body: bytes, problem: str) -> None:
    assert judged(tmp_path / "body", body) == problem


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=YY"]
)
def test_a_boundary_that_is_not_in_the_form_is_none(tmp_path: Path, kind: str) -> None:
    assert judged(tmp_path / "body", form(f'{D}name="film"'), kind) == BAD_FORM
    assert judged(tmp_path / "body", form(f'{D}name="film"'), 'Multipart/Form-Data; x=y; boundary="XX"') is None


def test_a_form_of_very_many_parts_is_refused_before_it_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "body"
    part = f'--XX\r\n{D}name="a"\r\n\r\n\r\n'.encode()
    with path.open("wb") as file:
        file.writelines([part * 1000] * 100)
    assert why_not(path, "multipart/form-data; boundary=XX") == BAD_FORM
