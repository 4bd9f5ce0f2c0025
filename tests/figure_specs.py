"""The figure of every kind of result that has one, by the name of the result."""

from visprobe.report.presentations import presentations

FIGURES = {name: shown.figures[0] for name, shown in presentations().items() if shown.figures}
