"""PneumoScan's HTTP client: films to predictions, and the state of the server behind it. Needs requests only, no torch.

    from cxr_client import InferenceClient

    with InferenceClient("http://127.0.0.1:8080") as client:
        reply = client.predict(Path("film.dcm"))
        reply["label"], reply["probabilities"]["PNEUMONIA"]

What it raises, all of it under one name:

    ClientError
    ├── ServerUnreachable       nobody answers there
    │   └── AnswerLost          somebody does, but not to this request: too slow, or broken off
    ├── PredictionFailed        an answer that is no prediction; has status, code, title, detail, request_id, retryable
    │   ├── PredictionRefused   4xx: change the film or the options
    │   └── ServerFailed        5xx, or a reply nobody promised
    └── ManagementFailed        the management API refused or failed
"""

from cxr_client.errors import (
    AnswerLost,
    ClientError,
    ManagementFailed,
    PredictionFailed,
    PredictionRefused,
    Problem,
    ServerFailed,
    ServerUnreachable,
)
from cxr_client.inference import CAMS, TARGETS, VIEWS, Decision, InferenceClient
from cxr_client.management import ManagementClient, Readiness, VersionState, WorkerState

__all__ = [
    "CAMS",
    "TARGETS",
    "VIEWS",
    "AnswerLost",
    "ClientError",
    "Decision",
    "InferenceClient",
    "ManagementClient",
    "ManagementFailed",
    "PredictionFailed",
    "PredictionRefused",
    "Problem",
    "Readiness",
    "ServerFailed",
    "ServerUnreachable",
    "VersionState",
    "WorkerState",
]
