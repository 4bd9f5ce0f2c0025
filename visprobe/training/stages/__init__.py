"""Training stages: every module here but `stage` defines some, each as one `Stage` object.

A stage is found by being here, or by the entry point `visprobe.stages` of another package. None of the modules imports
torch: what trains is in `visprobe.training.trainers`.
"""

from visprobe.training.stages.stage import Stage, TrainerInputs, stage_of, stages

__all__ = ["Stage", "TrainerInputs", "stage_of", "stages"]
