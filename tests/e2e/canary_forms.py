"""Requests with a word in every place that a client can write to, above all those that TorchServe refuses itself.

What is said of single fields of DICOM is in test_mixed_load; here it is the form of the request that varies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.films import dicom, film

WORD = "ZQXCANARY"
PREDICT = "/predictions/pneumonia"
BODY = WORD.encode() * 3
FILM = dicom(film(), bits=8, PatientName=WORD, PatientID=WORD)
OCTETS = "application/octet-stream"
URLENCODED = "application/x-www-form-urlencoded"
FORM = "multipart/form-data; boundary=XX"


@dataclass(frozen=True)
class Form:
    """One form of a request.

    Parameters
    ----------
    is_echoed
        TorchServe 0.12.0 repeats it on its own port, to who sent it: docs/api.md names these.
    """

    name: str
    line: str = f"POST {PREDICT} HTTP/1.1"
    fields: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    is_echoed: bool = False
    is_measured: bool = True

    def bytes(self, key: str) -> bytes:
        """As it goes over the connection; what has no line goes as it is."""
        if not self.line:
            return self.body
        fields = [("Host", "x"), ("Connection", "close"), ("X-Api-Key", key), *self.fields]
        if self.is_measured:
            fields.append(("Content-Length", str(len(self.body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{self.line}\r\n{head}\r\n".encode() + self.body


def typed(kind: str, body: bytes = BODY, *, is_echoed: bool = False) -> Form:
    name = f"type {kind or 'none'} {body[:20]!r}"
    return Form(name, fields=(("Content-Type", kind),) if kind else (), body=body, is_echoed=is_echoed)


def parted(*heads: str, kind: str = FORM, end: bytes = b"--XX--\r\n", is_echoed: bool = False) -> Form:
    body = b"".join(f"--XX\r\n{head}\r\n\r\n".encode() + BODY + b"\r\n" for head in heads) + end
    return Form(f"form {heads} {kind} {end[:9]!r}", fields=(("Content-Type", kind),), body=body, is_echoed=is_echoed)


def asked(path: str, method: str = "POST", *, is_echoed: bool = False) -> Form:
    line = f"{method} {path} HTTP/1.1"
    return Form(f"line {line}", line, (("Content-Type", OCTETS),), BODY if method != "GET" else b"", is_echoed)


def headed(name: str) -> Form:
    return Form(f"header {name}", fields=((name, WORD), ("Content-Type", OCTETS)), body=BODY)


def bare(text: str) -> Form:
    return Form(f"bare {text[:40]!r}", line="", body=text.encode())


D = "Content-Disposition: form-data; "
TYPES = [
    typed(kind)
    for kind in (
        *("", URLENCODED, f"{URLENCODED}; charset=utf-8", URLENCODED.upper(), f"application/{WORD}", WORD, OCTETS),
        *(
            "text/plain",
            f"text/plain; charset={WORD}",
            "text/plain; charset=utf-16",
            "application/xml",
            f"image/{WORD}",
        ),
        *("application/json", f"application/json; charset={WORD}", "application/json; charset=utf-16"),
        *("multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={WORD}"),
        *(
            f"multipart/mixed; boundary={WORD}",
            f"multipart/{WORD}; boundary=x",
            "application/grpc",
            "application/dicom",
        ),
    )
]
BODIES = [
    *(typed(kind, FILM) for kind in ("", URLENCODED, OCTETS, "application/dicom", "text/plain", "application/json")),
    *(typed(URLENCODED, body) for body in (f"{WORD}={WORD}".encode(), f"a+{WORD}=b".encode(), f"={WORD}".encode())),
    *(typed(URLENCODED, f"a={WORD}{end}".encode(), is_echoed=True) for end in ("%zz", "%4", "%")),
    typed(URLENCODED, f"{WORD}%zz=1".encode(), is_echoed=True),
    typed(URLENCODED, bytes(range(256)) + BODY),
    typed(URLENCODED, "&".join(f"{WORD}{n}=1" for n in range(300)).encode()),
    typed(URLENCODED, f"a={WORD * 2000}".encode()),
    typed("application/json", f'{{"data": "{WORD}", "{WORD}": 1}}'.encode()),
    typed("application/json", f'{{"data": "{WORD}'.encode()),
    typed("application/json", f'{{"{WORD}": 1, "{WORD}": 2}}'.encode("utf-16")),
]
PARTS = [
    parted(f'{D}name="{WORD}"'),
    parted(f'{D}name="film"; filename="{WORD}.dcm"\r\nContent-Type: x/{WORD}'),
    parted(f'{D}filename="{WORD}.dcm"'),
    parted(f'{D}xname="{WORD}"'),
    parted(f"Content-Type: x/{WORD}"),
    parted(f'Content-Disposition: attachment; filename="{WORD}"'),
    parted(f'{D}name="film"\r\nContent-Type: text/plain; charset={WORD}', is_echoed=True),
    parted(f'{D}name="film"; filename="x"\r\nContent-Type: text/plain; charset={WORD}', is_echoed=True),
    parted(f'{D}name="film"\r\nContent-Transfer-Encoding: {WORD}'),
    parted(f'{D}name="film"\r\nContent-Transfer-Encoding: base64'),
    parted(f'{D}name="film"; filename="{WORD}"\r\nContent-Transfer-Encoding: base64'),
    parted(f'{D}name="film"\r\nContent-Transfer-Encoding: quoted-printable'),
    parted(f"{D}name=\"film\"; filename*=UTF-8''{WORD}%zz.dcm", is_echoed=True),
    parted(f"{D}name=\"film\"; filename*={WORD}''x.dcm", is_echoed=True),
    parted(f'{D}name="film"; filename*={WORD}'),
    parted(f'{D}name="{WORD}"', end=b""),
    parted(f'{D}name="film"; filename="{WORD}', end=b""),
    parted(f'{D}name="film"\r\nContent-Length: {WORD}'),
    parted(f'{D}name="film"\r\nContent-Type: multipart/mixed; boundary={WORD}'),
    parted(f'{D}name="film"\r\nContent-Type: multipart/mixed'),
    parted(f'{D}name="{WORD}\\"; filename="x'),
    parted(f'{WORD}\r\n{D}name="film"'),
    parted(f'{D}name="film"; x="{WORD * 2000}"'),
    parted(end=BODY + b"\r\n--XX--"),
    parted(end=BODY),
    parted(f'{D}name="{WORD}"', kind="Multipart/Form-Data; boundary=XX"),
    parted(f'{D}name="{WORD}"', kind='multipart/form-data; boundary="XX"'),
    parted(f'{D}name="{WORD}"', kind=f"{FORM}; charset={WORD}", is_echoed=True),
    parted(f'{D}name="cam"', f'{D}name="view"', f'{D}name="film"'),
    parted(f'{D}name="film\r\n {WORD}"'),
    parted(f'{D}name="{WORD}"', f'{D}name="{WORD}"'),
]
PATHS = [
    *(asked(f"{PREDICT}/{end}", is_echoed=True) for end in (WORD, f"{WORD}.dcm", f"%0a{WORD}")),
    *(asked(f"/{path}", is_echoed=True) for path in (f"predictions/{WORD}", f"explanations/{WORD}", f"%zz{WORD}")),
    *(asked(f"/{path}", is_echoed=True) for path in (f"v1/models/{WORD}:predict", f"v2/models/{WORD}/infer")),
    *(asked(f"{PREDICT}{end}") for end in (f"?{WORD}={WORD}", f"/?{WORD}", f"?a={WORD}%zz", f"/1.0.0/{WORD}")),
    *(asked(f"{PREDICT}{end}", is_echoed=True) for end in (f";{WORD}", f"%00{WORD}")),
    asked(f"{PREDICT}#{WORD}", is_echoed=True),
    *(asked(path) for path in (f"/{WORD}", f"//{WORD}", f"*{WORD}", f"/predictions//{WORD}", f"/invocations?{WORD}=1")),
    *(asked(f"{path}/{WORD}", is_echoed=True) for path in ("/explanations/pneumonia", "/wfpredict")),
    *(asked(f"{path}/{WORD}") for path in ("/models", "/workflows", f"http://{WORD}/predictions")),
    asked(f"/v1/models/pneumonia:predict?{WORD}"),
    *(asked(f"/predictions/{WORD}", method, is_echoed=True) for method in ("GET", "PUT", "HEAD", "DELETE", "PATCH")),
    *(asked(f"/predictions/{WORD}", method, is_echoed=True) for method in (WORD, "TRACE", "OPTIONS", "CONNECT")),
    Form("HTTP/1.0", f"POST /predictions/{WORD} HTTP/1.0", is_echoed=True),
]
HEADS = [
    *(headed(name) for name in ("Cxr-Cam", "Cxr-Target", "Cxr-View", "Cxr-Film", "Accept", "Authorization", "Cookie")),
    *(headed(name) for name in ("User-Agent", "Referer", "X-Request-Id", "traceparent", "Content-Encoding", WORD)),
    *(headed(name) for name in ("explain", "describe", "token", "Expect", "Upgrade", "Content-Disposition", "Via")),
    Form("two views", fields=(("Cxr-View", WORD), ("Cxr-View", WORD)), body=BODY),
    Form("unknown coding", fields=(("Transfer-Encoding", WORD),), body=BODY, is_measured=False),
    bare(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{WORD}\r\n"),
    bare(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {WORD}\r\n\r\n"),
    bare(f"POST {PREDICT} HTTP/1.1\r\n{WORD}\r\n\r\n"),
    bare(f"POST /{WORD * 2000} HTTP/1.1\r\nHost: x\r\n\r\n"),
    bare(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n{WORD}: {WORD * 2000}\r\n\r\n"),
    bare(f"POST /{WORD} HTTP/{WORD}\r\n\r\n"),
    bare(f"{WORD}\r\n\r\n"),
]
FORMS = [replace(form, name=f"{n} {form.name}") for n, form in enumerate([*TYPES, *BODIES, *PARTS, *PATHS, *HEADS])]
