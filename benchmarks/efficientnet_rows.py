"""What `benchmarks.efficientnet_lite` measures: cases, as its document and its table have them."""

from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks import document
from layer_folding import records
from layer_folding.errors import InputError
from layer_folding.stats import Comparison


@dataclass(frozen=True)
class Settings:
    """What all cases of a document have in common; ``importance_images`` are those that each fit alone was tried on."""

    model: str
    weights: str
    images: int
    importance_images: int
    size: int
    epochs: int


@dataclass(frozen=True)
class Kept:
    """What a network kept, on images that it was not fitted to, 0 to 1.

    ``top1`` is the share of images of which the class is right, and ``agreement`` of those with the original's class.
    """

    top1: float
    agreement: float


@dataclass(frozen=True)
class Outcome:
    """A network fitted to a plan: the ``choices`` and the ``speedup`` that the plan predicts, and what was measured.

    ``depth`` counts weighted layers on the longest path, before and after. ``distilled`` has the layers of ``fitted``
    with other weights, so that one ``comparison`` of latencies is for both; None until all networks are timed.
    ``fitted_on`` names the GPU or CPU of the fits and the distillation.
    """

    choices: tuple[str, ...]
    speedup: float
    depth: tuple[int, int]
    original: Kept
    fitted: Kept
    distilled: Kept
    fitted_on: str
    comparison: Comparison | None = None


@dataclass(frozen=True)
class Refused:
    """There is no such network, for this ``reason``."""

    reason: str


@dataclass(frozen=True)
class _Outcomes:
    """What a document of this benchmark has besides its table."""

    settings: Settings
    cases: dict[str, Outcome | Refused]


def rows(cases: dict[str, Outcome | Refused]) -> list[list[str]]:
    """A header, and a row for each case."""
    header = [
        "network", "depth", "predicted", "measured", "top-1, original", "fitted", "distilled",
        "agreement, fitted", "distilled", "fitted on",
    ]  # fmt: skip
    return [header, *(_row(name, case) for name, case in cases.items())]


def _row(name: str, case: Outcome | Refused) -> list[str]:
    if isinstance(case, Refused):
        return [name, "-", "-", case.reason, *"------"]
    shares = (
        case.original.top1, case.fitted.top1, case.distilled.top1, case.fitted.agreement, case.distilled.agreement,
    )  # fmt: skip
    measured = "-"
    if case.comparison:
        low, high = case.comparison.ci95
        measured = f"{case.comparison.speedup:.3f}x [{low:.3f}, {high:.3f}]"
    return [
        name,
        f"{case.depth[0]} => {case.depth[1]}",
        f"{case.speedup:.3f}x",
        measured,
        *(f"{100 * share:.1f} %" for share in shares),
        case.fitted_on,
    ]


def known(path: Path | None, settings: Settings) -> dict[str, Outcome | Refused]:
    """The cases in ``path``. Raises InputError where they were measured with other ``settings``."""
    if path is None or not path.exists():
        return {}
    found = records.read(path, _Outcomes, document.SCHEMA, "give a result of this benchmark, or another -o")
    for field in fields(Settings):
        before, now = getattr(found.settings, field.name), getattr(settings, field.name)
        if before != now:
            raise InputError(
                f"-o {path}: was measured with other settings, {field.name} {before} and not {now}; give another -o"
            )
    return found.cases
