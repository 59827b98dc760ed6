from __future__ import annotations

import json

import pytest

import cxr_client
from cxr_client.errors import PredictionRefused, ServerFailed, error_from_reply, problem_from_reply


def test_a_problem_json_body_is_read_field_by_field() -> None:
    body = {
        "type": "about:blank",
        "title": "Too small",
        "status": 422,
        "code": "TOO_SMALL",
        "detail": "10 x 10 pixels; 64 is the least.",
        "request_id": "abc",
        "retryable": False,
    }
    problem = problem_from_reply(422, json.dumps(body).encode(), {"x-request-id": "other"})
    assert (problem.status, problem.code, problem.title) == (422, "TOO_SMALL", "Too small")
    assert (problem.detail, problem.request_id, problem.retryable) == ("10 x 10 pixels; 64 is the least.", "abc", False)


def test_torchserves_own_error_keeps_its_message_and_names_its_kind() -> None:
    body = b'{"code": 404, "type": "ModelVersionNotFoundException", "message": "Model version: 9 does not exist"}'
    problem = problem_from_reply(404, body, {"x-request-id": "id-1"})
    assert problem.code == "ModelVersionNotFoundException"
    assert problem.detail == "Model version: 9 does not exist"
    assert problem.request_id == "id-1"


def test_an_empty_413_is_a_body_over_the_servers_limit() -> None:
    problem = problem_from_reply(413, b"", {})
    assert problem.code == "TOO_MANY_BYTES"
    assert "max_request_size" in problem.detail


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"\xff\xfe\x00", b"[1, 2]", b"null", b'{"code": null, "detail": 7}']
)
def test_any_other_body_still_gives_a_whole_problem(body: bytes) -> None:
    problem = problem_from_reply(502, body, {})
    assert (problem.status, problem.code, problem.title, problem.detail) == (502, "HTTP_502", "Bad Gateway", "")


@pytest.mark.parametrize(("status", "retryable"), [(400, False), (429, True), (500, False), (503, True), (507, True)])
def test_without_a_word_about_it_the_status_says_whether_to_try_again(status: int, retryable: bool) -> None:
    assert problem_from_reply(status, b"", {}).retryable is retryable


def test_a_full_queue_is_overloaded_whoever_says_it() -> None:
    said = b'{"code": 503, "type": "ServiceUnavailableException", "message": "Model pneumonia has no worker"}'
    problem = problem_from_reply(503, said, {})
    assert (problem.code, problem.retryable) == ("OVERLOADED", True)


def test_the_servers_own_word_on_trying_again_wins() -> None:
    assert problem_from_reply(503, b'{"retryable": false}', {}).retryable is False


def test_4xx_is_refused_and_everything_else_is_the_servers_failure() -> None:
    assert isinstance(error_from_reply(499, b"", {}), PredictionRefused)
    assert isinstance(error_from_reply(500, b"", {}), ServerFailed)
    assert isinstance(error_from_reply(302, b"", {}), ServerFailed)


def test_an_error_in_a_traceback_says_status_code_and_detail() -> None:
    error = error_from_reply(422, b'{"code": "TOO_SMALL", "detail": "10 x 10 pixels"}', {})
    assert str(error) == "422 TOO_SMALL: 10 x 10 pixels"


def test_every_exception_is_a_client_error_and_is_drawn_in_the_package_docstring() -> None:
    kinds = [kind for kind in vars(cxr_client).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) >= 7
    for kind in kinds:
        assert issubclass(kind, cxr_client.ClientError)
        assert kind.__name__ in (cxr_client.__doc__ or "")
