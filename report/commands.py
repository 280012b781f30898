"""The commands that made a run, from the settings and versions that its files record."""

import json
import re
import shlex
from dataclasses import dataclass

from report.read import Run

# Options whose name is not that of their setting.
_OPTIONS = {"penalty": "--lambda"}
_PRECISIONS = ("fp32", "fp16", "int8")


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
    stages = (run.config or {"stages": {}})["stages"]
    found = [_stage(folder, name, stage) for name, stage in stages.items()]
    if run.fold:
        spec = str(run.fold.get("model", {}).get("spec", ""))
        named = [] if spec.startswith(("train.models:", "torchvision", "timm")) or not spec else ["--model", spec]
        found.append(Step("fold", _join("python", "-m", "fold", "fold", folder, *named), {}, []))
    checkpoints = [run.folder / f"{name}.safetensors" for name in ("original", "folded")]
    made = [
        name for name in _PRECISIONS if (run.folder / f"folded{'' if name == 'fp32' else f'.{name}'}.onnx").exists()
    ]
    if made:
        given = ["--precision", ",".join(made), "--data", run.folder / "eval.npz", *checkpoints]
        found.append(Step("export", _join("python", "-m", "export", *given), {}, []))
    return [*found, *([_bench(run)] if run.bench else [])]


def profiled(run: Run) -> str:
    """The benchmark of ``run`` again, with a profile."""
    if not run.bench:
        return f"make trt-bench RUN={shlex.quote(str(run.folder))}"
    return f"{_bench(run).command} {_join('--export-profile', run.folder / 'profile')}"


def _stage(folder: str, name: str, stage: dict) -> Step:
    words, notes = ["python", "-m", "train", name, "--run", folder], []
    for key, value in stage["settings"].items():
        option = _OPTIONS.get(key, f"--{key.replace('_', '-')}")
        if "." in key:  # the checkpoint that the stage started from, which is in the folder
            notes.append(f"{key} has the SHA-256 {value}…")
        elif value is None or value is False or value in ("", []):
            continue  # an option that was not given
        elif key == "weights":
            words += [option, "WEIGHTS"]
            notes.append(f"WEIGHTS is the file with the SHA-256 {value}…")
        elif value is True:
            words.append(option)
        elif isinstance(value, dict):
            words += [option, "GATES.json"]
            notes.append(f"GATES.json holds {json.dumps(value)}")
        elif isinstance(value, list):
            words += [option, ",".join(map(str, value))] if key == "remove" else [option, *value]
        else:
            words += [option, value]
    versions = {key: str(value) for key, value in stage["versions"].items() if value}
    if stage.get("revision"):
        versions["revision"] = str(stage["revision"])
    return Step(name, _join(*words), versions, notes)


def _bench(run: Run) -> Step:
    bench = run.bench
    settings, device = bench["settings"], bench["device"]
    words = ["python", "-m", "trt_bench", "bench", "--runtime", bench["runtime"]]
    for option in ("provider", "threads", "data", "seconds"):
        words += [f"--{option}", settings[option]] if settings.get(option) else []
    words += ["--batch", *settings["batches"]] if settings.get("batches") else []
    words += ["--plan", bench["prediction"]["plan"]] if "prediction" in bench else []
    words += ["-o", run.folder / "bench.json", *dict.fromkeys(model["path"] for model in bench["models"])]
    versions = {key: str(device[key]) for key in ("runtime_version", "python", "numpy") if device.get(key)}
    return Step("benchmark", _join(*words), versions, [])


def _join(*words: object) -> str:
    return shlex.join(map(str, words))
