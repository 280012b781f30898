"""What a discrete GPU's driver tells through NVML, where pynvml (package nvidia-ml-py) is installed; else nothing."""

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

from .reading import Reading

# bits of nvmlClocksThrottleReasons (nvml.h); idle, application clocks and sync boost are no throttling
THROTTLING = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


@functools.cache
def _device(pci: str | None) -> tuple[Any, Any] | None:
    """(pynvml, handle) of the GPU at ``pci``, or of the first; None without NVML or a GPU."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(pci) if pci else pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # ImportError, NVMLError, and what a wrong package of the same name does
        return None
    return pynvml, handle


def _ask(function: str, *arguments: object, pci: str | None) -> Any:
    """The answer of one NVML function; None where this GPU or driver does not support it."""
    device = _device(pci)
    if device is None:
        return None
    pynvml, handle = device
    with contextlib.suppress(pynvml.NVMLError, AttributeError):
        return getattr(pynvml, function)(handle, *arguments)
    return None


@dataclass(frozen=True)
class Limits:
    """The name of a GPU and how fast it may run; None where NVML does not tell."""

    nvml_name: str | None = None
    max_clock_mhz: float | None = None
    power_limit_w: float | None = None
    persistence_mode: int | None = None


def describe(pci: str | None = None) -> Limits:
    """Name, power limit and clock limits of the GPU at ``pci``, or of the first."""
    device = _device(pci)
    if device is None:
        return Limits()
    name = _ask("nvmlDeviceGetName", pci=pci)
    limit = _ask("nvmlDeviceGetEnforcedPowerLimit", pci=pci)
    return Limits(
        nvml_name=name.decode() if isinstance(name, bytes) else name,
        max_clock_mhz=_ask("nvmlDeviceGetMaxClockInfo", device[0].NVML_CLOCK_SM, pci=pci),
        power_limit_w=limit and limit / 1e3,
        persistence_mode=_ask("nvmlDeviceGetPersistenceMode", pci=pci),
    )


def sample(pci: str | None = None) -> Reading | None:
    """What the sensors say now; None without NVML."""
    device = _device(pci)
    if device is None:
        return None
    pynvml, _ = device
    reasons = _ask("nvmlDeviceGetCurrentClocksThrottleReasons", pci=pci) or 0
    return Reading(
        clock_mhz=_ask("nvmlDeviceGetClockInfo", pynvml.NVML_CLOCK_SM, pci=pci),
        temperature_c=_ask("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU, pci=pci),
        throttling=tuple(name for bit, name in THROTTLING.items() if reasons & bit),
    )


def watts(pci: str | None = None) -> float | None:
    """Power of the GPU board now."""
    milliwatts = _ask("nvmlDeviceGetPowerUsage", pci=pci)
    return None if milliwatts is None else milliwatts / 1e3
