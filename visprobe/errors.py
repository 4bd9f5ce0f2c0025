"""What visprobe says when it cannot go on: what happened, where, and what to do next."""

from __future__ import annotations


class VisprobeError(Exception):
    """An error that a user can act on; the command line prints it without a traceback.

    Args:
        message: What happened and where (a path, a tensor, an image).
        hint: What to do next, as one sentence.
    """

    exit_code = 1
    results_shown = False  # whether what was measured is on stdout already: then no error document may follow it

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(VisprobeError):
    """A flag, an argument or a configuration that cannot be meant."""

    exit_code = 2


class CheckpointError(VisprobeError):
    """A checkpoint that is missing, damaged or of an unknown kind."""


class DataError(VisprobeError):
    """An image set that is missing, empty or does not fit the question."""


class TrainingError(VisprobeError):
    """A training run that must not go on."""


class TooManyBadItems(VisprobeError):
    """The run is done and written, but more items were unreadable than allowed."""

    exit_code = 3
    results_shown = True


class UnreadCheckpoints(VisprobeError):
    """The scan is done and printed, and some of what it found cannot be read."""

    exit_code = 3
    results_shown = True


class GateTripped(VisprobeError):
    """The run is done and written, and a condition of --fail-on was met."""

    exit_code = 3
    results_shown = True


class PrerequisiteError(VisprobeError):
    """Something has to be installed, mounted or allowed first."""

    exit_code = 4
