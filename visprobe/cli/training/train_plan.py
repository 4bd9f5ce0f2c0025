"""Printing of the plan of a training run (`--dry-run`)."""

from __future__ import annotations

from visprobe.cli.output import printable
from visprobe.io.disk import size_text
from visprobe.training.launch import is_first_process
from visprobe.training.on_paper import Plan


def print_plan(plan: Plan) -> None:
    """Print rows, steps, trained parameters of each part and memory, a line each."""
    if not is_first_process():
        return
    needed = sum(plan.memory.values())
    made_of = ", ".join(f"{what} {size_text(count)}" for what, count in plan.memory.items())
    lines = {
        "rows": f"{plan.used} of {plan.count} of {printable(plan.rows)}",
        "steps": f"{plan.steps} of {plan.rows_per_step} rows, {plan.seen / plan.used:.3g} passes over the rows",
        **{part: f"{trained:,} of {there:,} numbers trained" for part, (trained, there) in plan.parameters.items()},
        "memory": f"{size_text(needed)} of {size_text(plan.room)} on {plan.device}: {made_of}; activations come on top",
    }
    print(f"{plan.stage}: nothing was trained")
    for name, text in lines.items():
        print(f"  {name:<15} {text}")
    if needed > plan.room:
        print("  It does not fit: take lora, train fewer parts, or shard it over several GPUs.")
