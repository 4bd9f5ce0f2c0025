"""Trainers of the stages, based on trl's; imported only when a run begins."""
