"""Presentations of the results of gradcam."""

from __future__ import annotations

from visprobe.results.presentation import FigureSpec, Presentation

STRIPS = 4  # pictures that are followed through training, each in a figure of its own
_FIGURES = "visprobe.attribution.figures"
_SINGLE = "Baselines stand beside the scores over all images: a single map has none."


def _maps(name: str, kind: str, place: int, has_gallery: bool = False) -> Presentation:
    figure = FigureSpec(name, f"{_FIGURES}.report", f"draw_{kind}", f"caption_of_{kind}", _SINGLE)
    return Presentation(figures=(figure,), place=place, has_gallery=has_gallery, drawn_settings=("sheet",))


PRESENTATIONS = {
    "maps": _maps("maps", "maps", 220, has_gallery=True),
    "map_differences": _maps("map_differences", "differences", 230),
    "map_contrast": _maps("map_contrast", "contrast", 240),
    "attribution": Presentation(
        titles={
            "mass_inside": "Share of a map where the answer lies",
            "selectivity": "Share of a map that follows the question",
            "specificity": "Share of a map that follows the picture",
            "pointing": "Share of maps whose highest patch lies where the answer does",
            "rank_correlation": "Rank correlation of a map with the base's",
            "entropy": "Entropy of a map (lower: more focused)",
            "gini": "Gini coefficient of a map (higher: more focused)",
            "border_mass": "Share of a map on the border of the image",
        },
        heading="Method and site",
        figures=(FigureSpec("attribution_scores", f"{_FIGURES}.scores"),),
        place=250,
    ),
    "faithfulness": Presentation(
        figures=(FigureSpec("faithfulness", f"{_FIGURES}.curves", baseline="Baseline: random order."),), place=260
    ),
    **{f"map_strip_{n}": _maps(f"map_strip_{n}", "strip", 270 + n, has_gallery=True) for n in range(1, STRIPS + 1)},
    "map_steps": Presentation(titles={"score": "Score that the maps explain"}, heading="Method and site", place=280),
}
