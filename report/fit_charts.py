"""The chart of what was fitted: how far each fitted layer is from what it replaces."""

from collections.abc import Sequence

import matplotlib
from markupsafe import Markup

from layer_folding.fit_choices import parse_choice
from layer_folding.recipes import FitRecord

from .charts import WIDTH, short
from .svg import ACCENT, INK, STYLE, figure, inline


def errors(fitted: Sequence[FitRecord]) -> Markup:
    """A bar for each of ``fitted``, in the order of the network: the relative error on images that were not fitted on.

    There is at least one.
    """
    titles = {}
    with matplotlib.rc_context(STYLE):
        drawn = figure(WIDTH, 0.8 + 0.28 * len(fitted))
        axes = drawn.add_subplot()
        for row, fit in enumerate(fitted):
            axes.barh(row, fit.error, 0.6, color=ACCENT, gid=f"error-{row}")
            titles[f"error-{row}"] = f"{fit.choice}: {fit.error:.3g}"
            axes.annotate(
                f"{fit.error:.3f}", (fit.error, row), (4, 0), textcoords="offset points", va="center", color=INK
            )
        names = [short(", ".join(parse_choice(fit.choice).activations)) for fit in fitted]
        axes.set_yticks(range(len(fitted)), names, fontsize=9)
        axes.set_ylim(len(fitted) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.set_xlabel("relative error of the layer's output")
        axes.grid(visible=False, axis="y")
        axes.tick_params(length=0)
        return inline(drawn, "fit-errors", "how far each fitted layer is from what it replaces", titles)
