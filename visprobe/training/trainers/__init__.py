"""Trainers of the stages, on trl's; nothing here is imported before a run begins."""
