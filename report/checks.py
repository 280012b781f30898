"""What the page relies on in the files of a run. Checks raise KeyError, TypeError or ValueError for what is wrong."""

import math

from trt_bench import results


def config(content: dict) -> None:
    """Settings and versions of each stage."""
    for stage in content["stages"].values():
        require(all(isinstance(stage[key], dict) for key in ("settings", "versions")), "settings or versions")
    require(number(content["stages"].get("finetune", {"settings": {}})["settings"].get("threshold", 0)), "threshold")


def fold(content: dict) -> None:
    """Merges, skipped layers, costs and accuracies."""
    require(isinstance(content.get("model", {}), dict), "model")
    for merge in content["folded"]:
        require(merge["layers"] and isinstance(merge["name"], str), "a merge without layers or name")
        require(all(isinstance(name, str) for name in [*merge["layers"], *merge["activations"]]), "names of layers")
        numbers = [*merge["kernel"], *merge["stride"], *merge["macs"], *merge["parameters"], merge["error"]]
        require(all(map(number, numbers)), f"numbers of {merge['name']}")
        require(len(merge["macs"]) == len(merge["parameters"]) == 2, f"costs of {merge['name']}")
    for entry in content["skipped"]:
        require(all(isinstance(entry[key], str) for key in ("layer", "reason")), "skipped layers")
    for network in ("original", "folded"):
        require(all(number(content["cost"][network][key]) for key in ("depth", "parameters", "macs")), "cost")
    require(all(map(number, content["accuracy"].values())), "accuracy")
    require(number(content["max_error"]), "max_error")
    agreement = content.get("agreement")
    require(not agreement or all(number(agreement[key]) for key in ("images", "same")), "agreement")


def bench(content: dict) -> None:
    """What `trt_bench.results` checks, and beyond that profiles, engines, depths and batch sizes."""
    results.validate(content)
    require(isinstance(content["settings"].get("batches", []), list), "batches")
    measured = {(model["name"], model["batch"]) for model in content["models"]}
    for comparison in [content["comparison"], *content.get("comparisons", [])] if content["comparison"] else []:
        batch = comparison.get("batch", content["models"][0]["batch"])
        for side in ("baseline", "candidate"):
            require((comparison[side], batch) in measured, f"no {comparison[side]} with batch {batch}")
    for model in content["models"]:
        profile, engine, depth = model.get("profile"), model.get("engine"), model.get("network", {}).get("depth")
        require(depth is None or number(depth), "depth")
        if profile is not None:
            require(isinstance(profile["note"], str) and all(map(number, profile["modules"].values())), "profile")
        if engine is not None:
            require(isinstance(engine["strongly_typed"], bool) and number(engine["engine_bytes"]), "engine")
            require(all(map(number, engine["layers_by_precision"].values())), "engine")


def number(value: object) -> bool:
    """Whether ``value`` is a finite number, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def require(condition: object, what: str) -> None:
    """Raise ValueError that says ``what`` is wrong unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{what}: not as expected")
