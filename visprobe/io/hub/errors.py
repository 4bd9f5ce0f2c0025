"""Errors between this machine and the hub: one message each, and which of them are worth another try."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub import constants, errors

from visprobe.errors import CheckpointError, PrerequisiteError, VisprobeError
from visprobe.io.disk import is_disk_full

TransportError: Any = errors.HfHubHTTPError.__mro__[1]  # httpx.HTTPError, or httpx2's from huggingface_hub 2 on

_TRIES = 5
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 300.0
_SILENT_WAIT = 1.0
_PASSING = {408, 429, 500, 502, 503, 504}
_Answer = TypeVar("_Answer")


def seconds_to_wait(error: Exception, failures: int) -> float:
    """Return how long to wait before the next try.

    Args:
        error: Error of the last try.
        failures: Number of tries that failed in a row, the last one included.

    Returns:
        Seconds, as the server asks (`Retry-After`, `RateLimit`) or twice as long each time.

    Raises:
        Exception: `error`, if it will not pass, has come too often or would need too long a wait.
    """
    response = getattr(error, "response", None)
    if failures >= _TRIES or (response is not None and response.status_code not in _PASSING):
        raise error
    wait = _FIRST_WAIT * float(2 ** (failures - 1))
    if response is not None:
        wait = _asked_wait(response.headers) or wait
    if wait > _LONGEST_WAIT:
        raise error
    if wait > _SILENT_WAIT:
        reason = f"status {response.status_code}" if response is not None else error
        logging.getLogger(__name__).warning("%s: %s; next try in %g s", constants.ENDPOINT, reason, wait)
    return wait


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    if (after := headers.get("Retry-After", "")).isdigit():
        return float(after)
    limit = re.search(r";\s*r=0;\s*t=(\d+)", headers.get("RateLimit", ""))  # the hub's own header
    return float(limit[1]) + 1 if limit else None


def retry(call: Callable[[], _Answer], sleep: Callable[[float], object]) -> _Answer:
    """Call `call()`, and again after a wait while the server answers that it is overloaded; a dead network ends it."""
    for failures in range(1, _TRIES + 1):
        try:
            return call()
        except errors.HfHubHTTPError as error:
            sleep(seconds_to_wait(error, failures))
    raise AssertionError("the last failure is raised by seconds_to_wait")


@contextmanager
def translate_hub_errors(what: str, repo: str) -> Iterator[None]:
    """Turn every fault of the hub, the network or the cache into one message.

    Args:
        what: Thing that was being read, for the message: "org/name@main", "config.json of org/name@main".
        repo: Model id.

    Raises:
        CheckpointError: For any such fault.
        PrerequisiteError: If the disk is full, or the cache is not writable.
    """
    try:
        yield
    except errors.LocalEntryNotFoundError as error:  # huggingface_hub hides the network's error in this one
        raise _explain(error.__cause__ or error, what, repo) from error
    except (TransportError, OSError, ValueError, KeyError, TypeError) as error:
        raise _explain(error, what, repo) from error


def offline(what: str) -> CheckpointError:
    """Make the error for `what` being needed but absent while the network may not be used."""
    return CheckpointError(
        f"{what} is not on this machine in full, and the hub may not be asked (--offline, HF_HUB_OFFLINE)",
        hint="Run once with a network and without them, or bring the checkpoint here with `hf download`.",
    )


def _explain(error: BaseException, what: str, repo: str) -> VisprobeError:
    if isinstance(error, errors.OfflineModeIsEnabled):
        return offline(what)
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_answer(error, what, repo)
    if isinstance(error, TransportError):
        return CheckpointError(
            f"{what} cannot be read: no connection to {constants.ENDPOINT} ({error or type(error).__name__})",
            hint="If a folder was meant, check its path: there is none of that name here. Otherwise check the network, "
            "HTTPS_PROXY and HF_ENDPOINT; HF_HUB_OFFLINE=1 uses what is on this machine.",
        )
    if is_disk_full(error):
        return PrerequisiteError(
            f"the disk is full while reading {what}",
            hint="Make room, or set VISPROBE_CACHE and HF_HOME to a larger disk; what was read is kept.",
        )
    if isinstance(error, OSError) and error.errno is not None:
        return PrerequisiteError(
            f"{what} cannot be kept on this machine: {error}",
            hint="Set VISPROBE_CACHE and HF_HOME to folders that you may write to.",
        )
    return CheckpointError(
        f"{what} cannot be read: {constants.ENDPOINT} does not answer as a hub does ({error})",
        hint="Check HF_ENDPOINT, and that no proxy or login page answers in its place.",
    )


def _explain_answer(error: errors.HfHubHTTPError, what: str, repo: str) -> CheckpointError:
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return CheckpointError(
            f"{what} may not be read: access to {repo} has to be granted first ({status})",
            hint=f"Request access at {constants.ENDPOINT}/{repo}, then set HF_TOKEN to a token of that account.",
        )
    if "Invalid credentials" in error.response.headers.get("X-Error-Message", ""):
        return CheckpointError(
            f"{what} cannot be read: {constants.ENDPOINT} does not know your token ({status})",
            hint="Set HF_TOKEN to a valid token, run `hf auth login` again, or unset HF_TOKEN for public models.",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return CheckpointError(
            f"{what} is neither a folder here nor a model that {constants.ENDPOINT} shows you ({status})",
            hint="Check the spelling; for a private model set HF_TOKEN to a token that may read it.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"{what}: {repo} has no such revision", hint="Give a branch, a tag or a commit after the @."
        )
    if status == 404:
        return CheckpointError(f"{what} does not exist", hint=f"See {constants.ENDPOINT}/{repo} for the files it has.")
    if status == 429:
        return CheckpointError(
            f"{what} cannot be read: {constants.ENDPOINT} allows no more requests for now (429)",
            hint="Wait some minutes and run again, what was read is kept; with HF_TOKEN set the limits are higher.",
        )
    return CheckpointError(
        f"{what} cannot be read: {constants.ENDPOINT} answered {status}",
        hint="Run again later; what was read is kept.",
    )
