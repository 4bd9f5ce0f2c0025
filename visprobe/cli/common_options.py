"""Common options of the measuring commands, and the run of a measurement from options to exit code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from visprobe.cli import options as o
from visprobe.cli.config_file import origins
from visprobe.errors import UsageError

if TYPE_CHECKING:
    from visprobe.analyses.core.gates import Condition, Gate
    from visprobe.results.result import Result

_REQUIRED = "a command that takes it has to be given it"


@dataclass(frozen=True)
class Common:
    """Options that mean the same in all measuring commands.

    See `visprobe.pipelines.measurement.Options` and the help of the options for the attributes.
    """

    data: o.Data = _REQUIRED
    split: o.Split = None
    limit: o.Limit = None
    labels: o.Labels = None
    subset_per_class: o.SubsetPerClass = None
    max_bad: o.MaxBad = "1%"
    batch_size: o.BatchSize = o.AUTO
    device: o.Device = "auto"
    dtype: o.Dtype = "float32"
    pixels: o.Pixels = 448 * 448
    tiles: o.Tiles = False
    seed: o.Seed = 0
    config: o.Config = None
    resume: o.Resume = True
    offline: o.Offline = False
    output_dir: o.OutputDir = Path("visprobe-report")
    fail_on: o.FailOn = None
    json: o.Json = False
    verbose: o.Verbose = None
    asked: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # every option with its value and its origin


def measuring(
    *, without: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a command the common options, as its first argument.

    Args:
        without: Names of common options that the command does not have.
        defaults: The command's own defaults of common options.
    """
    hints = get_type_hints(Common, include_extras=True)
    known = [one for one in fields(Common) if one.name not in ("asked", *without)]

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        own = [*inspect.signature(command, eval_str=True).parameters.values()][1:]
        common = [_parameter(one.name, hints[one.name], defaults.get(one.name, one.default)) for one in known]
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        @wraps(command)
        def call(context: typer.Context, **values: Any) -> None:
            shared = {one.name: values.pop(one.name) for one in known}
            command(Common(**shared, asked=origins(context)), **values)

        # Typer reads options from the signature and the annotations, not from those of the wrapped command.
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        signature = inspect.Signature([*keyword, *common, context])
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
        del call.__wrapped__
        return call

    return decorated


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    wanted = inspect.Parameter.empty if default in (_REQUIRED, MISSING) else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=wanted, annotation=annotation)


def run(
    common: Common,
    measure: Callable[[Any], Any],
    *,
    short: Callable[[Any], Any] | None = None,
    show_as: Callable[[Any], None] | None = None,
) -> None:
    """Measure, write the report, show it, and raise the error that sets the exit code, if any.

    Args:
        common: Common options.
        measure: Function from `visprobe.Options` to a `Measurement`.
        short: Function that cuts a result to the rows that a terminal has room for.
        show_as: Function that prints the measurement in the command's own way, instead of `short` and the usual tables.

    Raises:
        TooManyBadItems, GateTripped, UsageError: After everything is written and shown.
    """
    from visprobe.analyses.core.gates import read_condition
    from visprobe.cli.output import Bars
    from visprobe.cli.present import command_line, finish, print_report, show, show_json
    from visprobe.report.write import write_report

    conditions = [read_condition(text) for text in common.fail_on or ()]
    with Bars(common.verbose) as bars:
        measured = measure(_options(common, bars))
        gates, misfits = _held_against(conditions, measured.results)
        document = measured.document(command_line(), common.asked, gates)
        page = write_report(common.output_dir, document) if common.output_dir else None
        bars.say(measured.told())
    if common.json:
        show_json(document)
    elif show_as:
        show_as(measured)
        print_report(page)
    else:
        if short and not common.verbose:
            measured = replace(measured, results=tuple(map(short, measured.results)))
        show(measured, page=page, whole=bool(common.verbose))
    finish(measured, common.max_bad, gates, misfits)


def _held_against(conditions: Sequence[Condition], results: Sequence[Result]) -> tuple[list[Gate], list[UsageError]]:
    """Judge each condition; those that match nothing are returned as errors, to be raised after the output."""
    from visprobe.analyses.core.gates import judge

    gates: list[Gate] = []
    misfits: list[UsageError] = []
    for condition in conditions:
        try:
            gates += judge([condition], results)
        except UsageError as error:
            error.results_shown = True
            misfits.append(error)
    return gates, misfits


def _options(common: Common, bars: Any) -> Any:
    from visprobe.pipelines.measurement import Options

    named_alike = {one.name for one in fields(Options)} & {one.name for one in fields(Common)}
    given = {name: getattr(common, name) for name in named_alike}
    batch_size = None if common.batch_size == o.AUTO else int(common.batch_size)
    return Options(**{**given, "batch_size": batch_size, "progress": bars, "note": bars.note})
