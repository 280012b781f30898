"""Clocks, temperatures and throttling while networks are timed, and the energy of an inference."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from trt_bench import jetson, nvml

INTERVAL_S = 0.1
ENERGY_S = 2.0  # an INA3221 of a Jetson averages over some ms, NVML over 100 ms or more


class Monitor:
    """Call it between blocks of timing: it looks at the sensors, though at most ten times a second."""

    def __init__(self, device: dict):
        self._read = sensors(device)
        self._due = 0.0
        self._samples: list[dict] = []

    def __call__(self) -> None:
        """Take a sample if one is due."""
        if self._read and time.monotonic() >= self._due:
            self._samples.append(self._read())
            self._due = time.monotonic() + INTERVAL_S

    def summary(self) -> dict | None:
        """Range of clock and temperature, and all that throttled meanwhile; None where nothing can be read."""
        if not self._samples:
            return None
        events = [sample.get("overcurrent_events", 0) for sample in self._samples]
        throttled = {reason for sample in self._samples for reason in sample["throttling"]}
        if events[-1] > events[0]:
            throttled.add("over-current")
        return {
            "samples": len(self._samples),
            "clock_mhz": self._range("clock_mhz"),
            "temperature_c": self._range("temperature_c"),
            "throttled": sorted(throttled),
        }

    def _range(self, key: str) -> list[float] | None:
        values = [sample[key] for sample in self._samples if sample[key] is not None]
        return [min(values), max(values)] if values else None


def sensors(device: dict) -> Callable[[], dict] | None:
    """The function that reads clock and temperature of what a ``device`` object describes, if there is one."""
    if device.get("jetson"):
        return jetson.sample
    if device["kind"] == "gpu" and nvml.sample(device.get("pci")):
        return lambda: nvml.sample(device.get("pci"))
    return None


def power(device: dict) -> dict[str, Callable[[], float | None]]:
    """The functions that read watts of what a ``device`` object describes, by rail."""
    if device.get("jetson"):
        return {rail.name: rail.watts for rail in jetson.rails()}
    if device["kind"] == "gpu" and nvml.watts(device.get("pci")) is not None:
        return {"GPU": lambda: nvml.watts(device.get("pci"))}
    return {}


def energy(
    repeat: Callable[[int], object],
    iterations: int,
    rails: dict[str, Callable[[], float | None]],
    seconds: float = ENERGY_S,
    clock: Callable[[], float] = time.monotonic,
) -> dict | None:
    """Energy of one inference in mJ by rail, and of the whole, while ``repeat`` runs without a pause.

    ``iterations`` inferences run between two looks at the rails. The whole is the sum of the rails that do not contain
    each other, so that the input rail of a Jetson is never added to what it feeds; "whole" names them. None without
    rails.
    """
    if not rails:
        return None
    watts: dict[str, list[float]] = {name: [] for name in rails}
    begin, count = clock(), 0
    while clock() - begin < seconds or count == 0:
        repeat(iterations)
        count += iterations
        for name, read in rails.items():
            value = read()
            if value is not None:
                watts[name].append(value)
    per_inference_s = (clock() - begin) / count
    means = {name: float(np.mean(values)) for name, values in watts.items() if values}
    whole: Sequence[str] = jetson.independent(list(means))
    return {
        "whole": whole,
        "whole_mj": 1e3 * per_inference_s * sum(means[name] for name in whole),
        "rails_mj": {name: 1e3 * per_inference_s * value for name, value in means.items()},
        "rails_w": means,
        "inferences": count,
    }
