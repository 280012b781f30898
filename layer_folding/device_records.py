"""The device that a latency was measured on, as bench.json and the latency tables record it.

A field is None where the machine does not tell.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WhileTimed:
    """What the sensors of a GPU said while networks were timed: lowest and highest value, and what throttled it."""

    samples: int
    throttled: tuple[str, ...]
    clock_mhz: tuple[float, float] | None = None
    temperature_c: tuple[float, float] | None = None


@dataclass(frozen=True)
class JetsonRecord:
    """Model, software and power mode of a Jetson; ``rails`` says what each measured supply feeds."""

    model: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    nvpmodel: str | None = None
    gpu_clock_mhz: tuple[float | None, float | None] | None = None
    gpu_governor: str | None = None
    rails: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceRecord:
    """The processor that networks ran on (``kind`` is cpu or gpu), its host, and the versions of what ran them."""

    kind: str | None = None
    name: str | None = None
    runtime_version: str | None = None
    compute_capability: str | None = None
    driver: str | None = None
    cuda_driver: str | None = None
    pci: str | None = None
    nvml_name: str | None = None
    max_clock_mhz: float | None = None
    power_limit_w: float | None = None
    persistence_mode: int | None = None
    cpu: str | None = None
    cores: int | None = None
    load_average: float | None = None  # before timing: runnable processes of the last minute
    board: str | None = None
    jetson: JetsonRecord | None = None
    machine: str | None = None
    os: str | None = None
    python: str | None = None
    numpy: str | None = None
    while_timed: WhileTimed | None = None
