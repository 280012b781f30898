"""What the sensors of a GPU say at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """Clock (MHz) and highest temperature (degrees Celsius), None where there is no such sensor, and what throttles."""

    clock_mhz: float | None
    temperature_c: float | None
    throttling: tuple[str, ...]
    overcurrent_events: int = 0  # since the machine was started
