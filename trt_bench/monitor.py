"""Clocks, temperatures and throttling while networks are timed, and the energy of an inference."""

import time
from collections.abc import Callable, Iterable

import numpy as np

from layer_folding.bench_results import EnergyRecord
from layer_folding.device_records import DeviceRecord, WhileTimed

from . import jetson, nvml
from .reading import Reading

INTERVAL_S = 0.1
BLOCK_S = 0.1  # much longer than what a sensor averages over, so that no pause is in the average
ENERGY_S = 2.0  # an INA3221 of a Jetson averages over some ms, NVML over 100 ms or more


class Monitor:
    """Call it between blocks of timing: it looks at the sensors, though at most ten times a second."""

    def __init__(self, device: DeviceRecord):
        self._read = sensors(device)
        self._due = 0.0
        self._readings: list[Reading] = []

    def __call__(self) -> None:
        """Look if it is time to."""
        if self._read and time.monotonic() >= self._due:
            reading = self._read()
            self._readings += [] if reading is None else [reading]
            self._due = time.monotonic() + INTERVAL_S

    def summary(self) -> WhileTimed | None:
        """Range of clock and temperature, and all that throttled meanwhile; None where nothing can be read."""
        if not self._readings:
            return None
        throttled = {reason for reading in self._readings for reason in reading.throttling}
        if self._readings[-1].overcurrent_events > self._readings[0].overcurrent_events:
            throttled.add("over-current")
        return WhileTimed(
            samples=len(self._readings),
            throttled=tuple(sorted(throttled)),
            clock_mhz=_range(reading.clock_mhz for reading in self._readings),
            temperature_c=_range(reading.temperature_c for reading in self._readings),
        )


def _range(values: Iterable[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def sensors(device: DeviceRecord) -> Callable[[], Reading | None] | None:
    """The function that reads clock and temperature of ``device``, if there is one."""
    if device.jetson:
        return jetson.sample
    if device.kind == "gpu" and nvml.sample(device.pci):
        return lambda: nvml.sample(device.pci)
    return None


def power(device: DeviceRecord) -> dict[str, Callable[[], float | None]]:
    """The functions that read watts of ``device``, by rail."""
    if device.jetson:
        return {rail.name: rail.watts for rail in jetson.rails()}
    if device.kind == "gpu" and nvml.watts(device.pci) is not None:
        return {"GPU": lambda: nvml.watts(device.pci)}
    return {}


def energy(
    repeat: Callable[[int], object],
    iterations: int,
    rails: dict[str, Callable[[], float | None]],
    seconds: float = ENERGY_S,
    clock: Callable[[], float] = time.monotonic,
) -> EnergyRecord | None:
    """Energy of one inference in mJ by rail, and of the whole, while ``repeat`` runs.

    Blocks of inferences, ``iterations`` at a time, run between two looks at the rails. The whole is the sum of the
    rails that do not contain each other, so that the input rail of a Jetson is never added to what it feeds; ``whole``
    names them. None without rails.
    """
    if not rails:
        return None
    watts: dict[str, list[float]] = {name: [] for name in rails}
    busy_s, count = 0.0, 0
    while busy_s < seconds:
        begin = clock()
        while clock() - begin < BLOCK_S:
            repeat(iterations)
            count += iterations
        busy_s += clock() - begin  # reading a rail takes 0.2 ms, in which the GPU does nothing
        for name, read in rails.items():
            value = read()
            if value is not None:
                watts[name].append(value)
    per_inference_s = busy_s / count
    means = {name: float(np.mean(values)) for name, values in watts.items() if values}
    whole = tuple(jetson.independent(list(means)))
    return EnergyRecord(
        whole=whole,
        whole_mj=1e3 * per_inference_s * sum(means[name] for name in whole),
        rails_mj={name: 1e3 * per_inference_s * value for name, value in means.items()},
        rails_w=means,
        inferences=count,
    )
