"""The commands that made a run, from the settings and versions that its files record."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from layer_folding import run_config
from layer_folding.bench_results import BenchResult
from layer_folding.run_config import StageRun

from .run_folder import Run

_PROGRAM = "layer-folding"
# Options whose name is not that of their setting.
_OPTIONS = {"penalty": "--lambda", "choices": "--choose"}
_PRECISIONS = ("fp32", "fp16", "int8", "int8-fp16")


@dataclass(frozen=True)
class Step:
    """A command, the versions it ran with, and what of it the run folder does not say."""

    title: str
    command: str
    versions: dict[str, str]
    notes: list[str]

    @property
    def parts(self) -> list[str]:
        """The command, cut before each option, where a line may break."""
        return re.split(r" (?=--?[a-z])", self.command)


def steps(run: Run) -> list[Step]:
    """The commands of ``run`` in their order, as they can be given again from any folder."""
    folder = str(run.folder)
    stages = run.config.stages if run.config else {}
    trust = _trust(run)
    found = [_stage(folder, name, stage, trust) for name, stage in stages.items()]
    if run.fold:
        found.append(Step("fold", _join(_PROGRAM, "fold", folder, *trust), {}, []))
    checkpoints = [run.folder / f"{name}.safetensors" for name in ("original", "folded")]
    made = [
        name for name in _PRECISIONS if (run.folder / f"folded{'' if name == 'fp32' else f'.{name}'}.onnx").exists()
    ]
    if made:
        given = [*trust, "--precision", ",".join(made), "--data", run.folder / "eval.npz", *checkpoints]
        found.append(Step("export", _join(_PROGRAM, "export", *given), {}, []))
    return [*found, *([_bench(run.folder, run.bench)] if run.bench else [])]


def profiled(run: Run) -> str:
    """The benchmark of ``run`` again, with a profile."""
    if not run.bench:
        return f"make trt-bench RUN={shlex.quote(str(run.folder))}"
    return f"{_bench(run.folder, run.bench).command} {_join('--export-profile', run.folder / 'profile')}"


def _trust(run: Run) -> list[str]:
    """The option without which a checkpoint of the caller's own network is refused; empty for other networks."""
    spec = run.fold.model.spec if run.fold else ""
    return [] if spec.startswith(("layer_folding:", "torchvision", "timm", "onnx:")) or not spec else ["--trust", spec]


def _stage(folder: str, name: str, stage: StageRun, trust: list[str]) -> Step:
    command = ["fit", folder] if run_config.is_fit(stage) else [name, "--run", folder]
    words: list[object] = [_PROGRAM, *command, *([] if "model" in stage.settings else trust)]
    notes: list[str] = []
    for key, value in stage.settings.items():
        option = _OPTIONS.get(key, f"--{key.replace('_', '-')}")
        if value is None or value is False or value in ("", []):
            continue  # an option that was not given
        elif value is True:
            words.append(option)
        elif isinstance(value, dict):
            words += [option, "GATES.json"]
            notes.append(f"GATES.json holds {json.dumps(value)}")
        elif isinstance(value, list):
            words += [option, ",".join(map(str, value))] if key == "remove" else [option, *value]
        else:
            words += [option, value]
    for file, digest in stage.files.items():
        if file == "weights":  # any other is a checkpoint in the folder
            words += ["--weights", "WEIGHTS"]
        notes.append(f"{'WEIGHTS is the file with' if file == 'weights' else f'{file} has'} the SHA-256 {digest}…")
    versions = {key: value for key, value in stage.versions.items() if value}
    if stage.revision:
        versions["revision"] = stage.revision
    return Step(name, _join(*words), versions, notes)


def _bench(folder: Path, bench: BenchResult) -> Step:
    settings, device = bench.settings, bench.device
    words: list[object] = [_PROGRAM, "bench", "--runtime", bench.runtime]
    options = {
        "--provider": settings.provider,
        "--threads": settings.threads,
        "--data": settings.data,
        "--seconds": settings.seconds,
    }
    for option, value in options.items():
        words += [option, value] if value else []
    words += ["--batch", *settings.batches] if settings.batches else []
    words += ["--plan", bench.prediction.plan] if bench.prediction else []
    words += ["-o", folder / "bench.json", *dict.fromkeys(model.path for model in bench.models)]
    versions = {"runtime_version": device.runtime_version, "python": device.python, "numpy": device.numpy}
    return Step("benchmark", _join(*words), {name: version for name, version in versions.items() if version}, [])


def _join(*words: object) -> str:
    return shlex.join(map(str, words))
