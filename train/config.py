"""What a run folder says of its stages: with which settings each one ran, so that a resumed run is the same run."""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from layer_folding import records, run_config
from layer_folding.errors import InputError
from layer_folding.files import remove_leftovers
from layer_folding.run_config import Config, StageRun

from .hyperparameters import Training
from .settings import FitSettings

StageSettings = Training | FitSettings
Settings = TypeVar("Settings", bound=StageSettings)

_SHOWN = 5  # changed settings in a message


def enter(
    run: Path,
    stage: str,
    settings: StageSettings,
    files: Mapping[str, Path | None],
    *,
    lasting: Collection[str] | None = None,
) -> None:
    """Note in ``run``/config.json that ``stage`` runs with ``settings``, from which ``files``, with which versions.

    A stage that was started before must have had the same settings and files. Of a stage that has ended, ``lasting``
    names those that later stages depend on: only these must be the same, where they are given, and a note on stderr
    says which others are not. Raises InputError where they differ, and for a folder that holds something but is no run.
    """
    config = _read(run)
    remove_leftovers(run)
    digests = {name: digest(path) for name, path in files.items() if path is not None}
    now = StageRun(records.as_json(settings), digests, _versions(), _revision())
    before = config.stages.get(stage)
    if before is None:
        run_config.write(run, replace(config, stages={**config.stages, stage: now}))
        return
    old, new = {**before.settings, **before.files}, {**now.settings, **now.files}
    if lasting is not None:
        given = [key for key, value in new.items() if key in lasting and value is not None]
        others = _changes(*({key: value for key, value in each.items() if key not in lasting} for each in (old, new)))
        if others:
            said = _listed(others)
            print(f"note: {run}: {stage} has ended and is not repeated for other settings ({said})", file=sys.stderr)
        old, new = ({key: each[key] for key in given if key in each} for each in (old, new))
    changes = _changes(old, new)
    if changes:
        raise InputError(
            f"{run}: {stage} was started there with other settings ({_listed(changes)}); "
            "give the earlier settings again, or another run folder (RUN=DIR), or delete this folder"
        )


def leave(run: Path, stage: str) -> None:
    """Forget that ``stage`` has begun in ``run``."""
    config = _read(run)
    run_config.write(run, replace(config, stages={name: ran for name, ran in config.stages.items() if name != stage}))


def copy_stage(run: Path, stage: str, target: Path) -> None:
    """Note in the run folder ``target`` that ``stage`` ran there as it ran in ``run``. Raises InputError as `enter`."""
    config = _read(target)
    remove_leftovers(target)
    if stage not in config.stages:
        run_config.write(target, replace(config, stages={**config.stages, stage: _stage(run, stage)}))


def settings(run: Path, stage: str, kind: type[Settings]) -> Settings:
    """The settings of ``stage`` in ``run``. Raises InputError if it has not run there, or for a damaged config.json."""
    try:
        return records.decode(kind, _stage(run, stage).settings)
    except ValueError as error:
        raise InputError(
            f"{run / run_config.NAME}: damaged, settings of {stage}: {error}; give another run folder, RUN=DIR"
        ) from error


def digest(path: Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256; names the file that a stage started from."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _stage(run: Path, stage: str) -> StageRun:
    stages = _read(run).stages
    if stage not in stages:
        raise InputError(f"{run}: {stage} has not run there; run it first, see `layer-folding {stage} --help`")
    return stages[stage]


def _read(run: Path) -> Config:
    config = run_config.read(run)
    if config is not None:
        return config
    if run.exists() and (not run.is_dir() or any(not name.startswith(".") for name in os.listdir(run))):
        raise InputError(f"{run}: exists and is no run folder (it has no config.json); give another folder, RUN=DIR")
    return Config({})


def _changes(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What differs, a phrase each."""
    old, new = _flat(before), _flat(now)
    different = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    return [f"{key} was {old.get(key)}, is now {new.get(key)}" for key in different]


def _listed(changes: list[str]) -> str:
    return "; ".join(changes[:_SHOWN] + ([f"{len(changes) - _SHOWN} more"] if len(changes) > _SHOWN else []))


def _flat(settings: Mapping[str, object]) -> dict[str, object]:
    """``settings`` with those in it that are objects themselves, such as the weights of gates, taken apart."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        flat |= {f"{key} {name}": part for name, part in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def _versions() -> dict[str, str | None]:
    packages = ("layer-folding", "torch", "torchvision", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit of this source tree, with "-dirty" where files differ from it; None outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
