"""Beginning, ending and looking at the trial of a version at a running edge, from its run folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from cxr_client import ClientError, InferenceClient
from pneumoscan.edge.run import EdgeState, read_state
from pneumoscan.errors import VersionError
from pneumoscan.server.readiness import CANARY_TIMEOUT_S, canary_film
from pneumoscan.server.run_folder import RunDir
from pneumoscan.versions.declared import now
from pneumoscan.versions.trial import Trial, read_tally, read_trial, verdict, write_trial

_SHOWN: Final = 4


def begin(run_dir: RunDir, trial: Trial) -> None:
    """Put a version on trial, after every server behind the edge has answered a film with it.

    Parameters
    ----------
    run_dir
        Of the edge.

    Raises
    ------
    VersionError
        No edge runs there, another version is on trial, or a server does not answer; it is named.
    """
    going_on = read_trial(run_dir.path)
    if going_on is not None and not going_on.ended and going_on.version != trial.version:
        raise VersionError(f"{going_on.version} is on trial: run pneumoscan models end, or wait")
    for upstream in _running(run_dir).upstreams:
        with InferenceClient(f"http://{upstream}", timeout_s=CANARY_TIMEOUT_S) as client:
            try:
                default = client.predict(canary_film(), cam="none")["model"]["version"]
                client.predict(canary_film(), cam="none", version=trial.version)
            except (ClientError, KeyError, TypeError) as error:
                raise VersionError(f"the server at {upstream} does not answer with {trial.version}: {error}") from error
        if default == trial.version:
            raise VersionError(f"{trial.version} is the default of the server at {upstream}: there is no trial of it")
    write_trial(run_dir.path, trial)


def end(run_dir: RunDir) -> Trial:
    """Take a version out of its trial: from the next request on, the stable one answers alone.

    Raises
    ------
    VersionError
        None is on trial.
    """
    trial = read_trial(run_dir.path)
    if trial is None or trial.ended:
        raise VersionError(f"no version is on trial at the edge of {run_dir.path}")
    ended = replace(trial, ended=f"ended at {now()}")
    write_trial(run_dir.path, ended)
    return ended


def look(run_dir: RunDir) -> dict[str, Any]:
    """The last trial of an edge and what its pairs come to, as kept within the last second.

    Raises
    ------
    VersionError
        There was none.
    """
    trial = read_trial(run_dir.path)
    if trial is None:
        raise VersionError(f"there was no trial at the edge of {run_dir.path}: run pneumoscan models canary or shadow")
    return verdict(trial, read_tally(run_dir.path, trial))


def table(found: dict[str, Any]) -> str:
    """A trial for people."""
    limits, slower = found["limits"], found["times_as_long"]
    lines = [
        f"{found['kind']:<19}{found['version']} on {found['share']:.1%} of the requests since {found['at']}, "
        f"{found['state']}",
        f"pairs              {found['compared']} with {found['stable'] or '-'}, refused alike "
        f"{found['refused_by_both']}, no pair {found['unpaired']}",
        f"label flips        {found['flips']}{_interval(found['flip_share'], limits['flips'])}",
        f"not answered alike {found['errors']}{_interval(found['error_share'], limits['errors'])}",
    ]
    if slower is not None:
        shift = found["mean_shift_interval"]
        stable_s, trial_s = (found[name] / found["compared"] for name in ("stable_seconds", "trial_seconds"))
        lines.append(f"score shift        {shift['value']:.{_SHOWN}f}, at most {shift['high']:.{_SHOWN}f}")
        lines.append(
            f"takes              {slower['value']:.2f} times as long, {slower['low']:.2f} to {slower['high']:.2f} "
            f"({stable_s:.3f} s and {trial_s:.3f} s)"
        )
    if found["ended"]:
        lines.append(found["ended"])
    lines += [f"not passed: {failure}" for failure in found["failures"]]
    if not found["failures"]:
        lines.append("passed" if found["passed"] else "undecided: more pairs are needed")
    return "\n".join(lines)


def _interval(share: dict[str, float], limit: float) -> str:
    return f" ({share['value']:.1%}, {share['low']:.1%} to {share['high']:.1%}; {limit:.1%} are allowed)"


def _running(run_dir: RunDir) -> EdgeState:
    state = read_state(run_dir) if run_dir.is_locked() else None
    if state is None:
        raise VersionError(f"no edge runs from {run_dir.path}: start one with pneumoscan edge, or give its --edge")
    if not state.upstreams:
        raise VersionError(f"the edge of {run_dir.path} was started by an older pneumoscan edge: start it again")
    return state
