"""Stages: every module here but `stage` holds some, each one object that knows all there is to know of it.

A stage is found by being here, or by the entry point `visprobe.stages` of another package. None of the modules imports
torch: what trains is in `visprobe.training.trainers`.
"""

from visprobe.training.stages.stage import Stage, TrainerInputs, stage_of, stages

__all__ = ["Stage", "TrainerInputs", "stage_of", "stages"]
