"""The edge's own answers: problem documents with the fields of the handler's own (RFC 9457)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

# RFC 6797: a browser that was here once asks nobody without TLS.
HSTS: Final = ("Strict-Transport-Security", "max-age=31536000")


@dataclass(frozen=True)
class EdgeProblem:
    """One answer of the edge.

    Parameters
    ----------
    name
        Last part of its internal path, ``/_problem/<name>``.
    statuses
        Statuses of nginx or of TorchServe that it stands for.
    status
        The status that a client sees.
    code, title, detail, retryable
        As in the handler's problem documents.
    headers
        Further headers of the reply.
    """

    name: str
    statuses: tuple[int, ...]
    status: int
    code: str
    title: str
    detail: str
    retryable: bool = False
    headers: tuple[tuple[str, str], ...] = ()


PROBLEMS: Final = (
    EdgeProblem(
        "400",
        (400, 408, 421, 494, 495, 496, 497, 501, 505),
        400,
        "BAD_REQUEST",
        "Not a request this server reads",
        "The head of the request is damaged, over 32 kB, or was sent without TLS. Use https:// and one plain request.",
    ),
    EdgeProblem(
        "unknown-query",
        (),
        400,
        "BAD_OPTION",
        "An option has a value this server does not know",
        "The query may hold cam=, target=, view= and film=, each with a word of letters. Leave the rest out.",
    ),
    EdgeProblem(
        "repeated-option",
        (),
        400,
        "BAD_OPTION",
        "An option has a value this server does not know",
        "An option or a Content-Type is given twice, and which one counts would be anybody's guess. Give each once.",
    ),
    EdgeProblem(
        "several-films",
        (),
        400,
        "SEVERAL_FILMS",
        "The form holds more than one film",
        "The form has two parts of one name, or two files, and an answer is for one film. Send one form for each film, "
        'or up to 32 films as JSON: {"instances": [{"b64": "<base64>"}, ...]}.',
    ),
    EdgeProblem(
        "bad-form",
        (),
        400,
        "BAD_FORM",
        "Not a form this server reads",
        "The form is cut off, has over 64 parts, or has a part without a name, with a Content-Transfer-Encoding, a "
        "nested form or a charset that is not read. Send the film as the body, or a form with the part film.",
    ),
    EdgeProblem(
        "401",
        (401,),
        401,
        "UNAUTHORIZED",
        "No valid key",
        "A key is needed and this request has none that is valid. Send it as: Authorization: Bearer <key>",
        headers=(("WWW-Authenticate", 'Bearer realm="pneumoscan"'),),
    ),
    EdgeProblem(
        "403",
        (),
        403,
        "FORBIDDEN",
        "Not for this client",
        "This address may not ask for this path. Ask its operator.",
    ),
    EdgeProblem(
        "404",
        (404,),
        404,
        "NOT_FOUND",
        "No such path, model or version",
        "The path is none of the documented ones, or names a version that is not served. See docs/api.md.",
    ),
    EdgeProblem(
        "405",
        (405,),
        405,
        "METHOD_NOT_ALLOWED",
        "The path has no such method",
        "Films are sent with POST or PUT, /ping and /readyz are read with GET.",
        headers=(("Allow", "$edge_allow"),),
    ),
    EdgeProblem(
        "413",
        (413,),
        413,
        "TOO_MANY_BYTES",
        "The film has too many bytes",
        "The body has more than @@BODY_MIB@@ MiB, or the path takes none. Send a smaller file, or fewer films at once.",
    ),
    EdgeProblem(
        "414",
        (414,),
        414,
        "URI_TOO_LONG",
        "The address is too long",
        "Path and query have more than 8 kB. Shorten them.",
    ),
    EdgeProblem(
        "500",  # what TorchServe 0.12.0 says of a worker that died
        (500,),
        503,
        "WORKER_LOST",
        "The worker that had the request ended",
        "The worker that had this request ended before it answered, and is started again. Send the request again.",
        True,
        (("Retry-After", "2"),),
    ),
    EdgeProblem(
        "502",
        (502,),
        503,
        "UNAVAILABLE",
        "The server behind the edge does not answer",
        "The server behind the edge does not answer: it starts, stops or failed. Send the request again later.",
        True,
        (("Retry-After", "2"),),
    ),
    EdgeProblem(
        "503",
        (503,),
        503,
        "OVERLOADED",
        "The server has too much to do",
        "Too many requests wait, or this client has too many at once. Send it again later.",
        True,
        (("Retry-After", "2"),),
    ),
    EdgeProblem(
        "504",
        (504,),
        504,
        "TIMEOUT",
        "The server took too long",
        "The server gave no answer within its time limit of 130 s. Send the request again later.",
        True,
        (("Retry-After", "2"),),
    ),
    EdgeProblem(
        "507",
        (507,),
        507,
        "OUT_OF_MEMORY",
        "The server ran out of memory",
        "The server has no memory for this film now; send it again later.",
        True,
        (("Retry-After", "2"),),
    ),
)


def document(problem: EdgeProblem, request_id: str) -> str:
    """The body of a problem as JSON text."""
    body = {
        "type": f"urn:pneumoscan:error:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "request_id": request_id,
        "retryable": problem.retryable,
    }
    return json.dumps(body)


def locations(further: str = "") -> str:
    """nginx's ``error_page`` lines and the internal locations that answer them.

    Parameters
    ----------
    further
        Lines that each of the locations has as well.
    """
    lines: list[str] = []
    for problem in PROBLEMS:
        path = f"/_problem/{problem.name}"
        for status in problem.statuses:
            lines.append(f"        error_page {status} ={problem.status} {path};")
    # Who refuses a valid key's request says why by the name of a problem; the status is that problem's.
    lines.append("        error_page 403 = /_problem/$edge_refusal;")
    for problem in PROBLEMS:
        headers = "".join(
            f"            add_header {name} {_quoted(value)} always;\n" for name, value in (HSTS, *problem.headers)
        )
        lines.append(
            f"        location = /_problem/{problem.name} {{\n"
            "            internal;\n"
            "            default_type application/problem+json;\n"
            "            add_header X-Request-Id $edge_id always;\n"
            f"{headers}{further}"
            f"            return {problem.status} {_quoted(document(problem, '$edge_id'))};\n"
            "        }"
        )
    # Whatever else TorchServe may come up with.
    lines.append("        location /_problem/ { internal; rewrite ^ /_problem/500 last; }")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """Write a text as nginx reads it; a ``$name`` in it stays a variable."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
