"""The run folder's config.json: with which settings each stage ran, so that a resumed run is the same run."""

import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from fold.errors import InputError
from fold.files import remove_leftovers, write_json

SCHEMA = 1
_SHOWN = 5  # changed settings in a message


def enter(run: Path, stage: str, settings: dict) -> None:
    """Note in ``run``/config.json that ``stage`` runs with ``settings`` (JSON values), and with which versions.

    A stage that was started before must have had the same settings. Raises InputError where they differ, and for a
    folder that holds something but is no run.
    """
    config = _read(run)
    remove_leftovers(run)
    before = config["stages"].get(stage)
    if before is None:
        config["stages"][stage] = {"settings": settings, "versions": _versions(), "revision": _revision()}
        write_json(run / "config.json", config)
    elif before["settings"] != settings:
        old, new = _flat(before["settings"]), _flat(settings)
        changed = [key for key in {**new, **old} if old.get(key) != new.get(key)]
        changes = [f"{key} was {old.get(key)}, is now {new.get(key)}" for key in changed[:_SHOWN]]
        changes += [f"{len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []
        raise InputError(
            f"{run}: {stage} was started there with other settings ({'; '.join(changes)}); "
            "give those again, or another run folder (RUN=DIR), or delete this one"
        )


def settings(run: Path, stage: str) -> dict:
    """The settings of ``stage`` in ``run``. Raises InputError if it has not run there."""
    stages = _read(run)["stages"]
    if stage not in stages:
        raise InputError(f"{run}: {stage} has not run there; run it first, see `python -m train {stage} --help`")
    return stages[stage]["settings"]


def digest(path: Path) -> str:
    """The first 16 hexadecimal digits of the file's SHA-256; names the file that a stage started from."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _flat(settings: dict) -> dict:
    """``settings`` with those in it that are objects themselves, such as the weights of gates, taken apart."""
    flat = {}
    for key, value in settings.items():
        flat |= {f"{key} {name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _read(run: Path) -> dict:
    path = run / "config.json"
    if not path.exists():
        if run.exists() and (not run.is_dir() or any(not name.startswith(".") for name in os.listdir(run))):
            raise InputError(f"{run}: exists and is no run folder (it has no config.json); give another one, RUN=DIR")
        return {"schema": SCHEMA, "stages": {}}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["schema"] == SCHEMA and isinstance(config["stages"], dict):
            return config
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: damaged, or of another version; delete the run folder or give another one, RUN=DIR")


def _versions() -> dict[str, str]:
    packages = ("layer-folding", "torch", "torchvision", "numpy")
    found = {name: _version(name) for name in packages}
    return {"python": platform.python_version(), **found}


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
