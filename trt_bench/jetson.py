"""What a Jetson tells of itself in sysfs: model, software, power mode, clocks, temperatures, throttling, power rails.

``root`` is "/" but in tests. Layouts: Orin Nano, Orin NX and AGX Orin with Jetson Linux 35 and 36, Thor with 38.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from layer_folding.device_records import JetsonRecord

from .reading import Reading
from .sysfs import number, text

GPU_NAMES = re.compile(r"gpu|ga10b|gv11b|gp10b")  # of the devfreq device, by Jetson Linux release and chip

# What a rail feeds, by NVIDIA's developer guide (Jetson Linux, "Platform Power and Performance"), and the rail that it
# is a part of: its power is counted there already.
RAILS = {
    "VDD_IN": ("the whole module", None),
    "VIN": ("the whole module", None),
    "VDD_CPU_GPU_CV": ("CPU, GPU and vision accelerators", "VDD_IN"),
    "VDD_SOC": ("the rest of the chip", "VDD_IN"),
    "VDD_GPU_SOC": ("GPU and the rest of the chip", None),
    "VDD_CPU_CV": ("CPU and vision accelerators", None),
    "VIN_SYS_5V0": ("memory and I/O, from the 5 V supply", "VIN"),
    "VDDQ_VDD2_1V8AO": ("memory", "VIN_SYS_5V0"),
    "VDD_GPU": ("GPU", "VIN"),
    "VDD_CPU_SOC_MSS": ("CPU, memory subsystem and the rest of the chip", "VIN"),
}


@dataclass(frozen=True)
class Rail:
    """One measured supply."""

    name: str
    voltage: Path  # mV
    current: Path  # mA

    @property
    def covers(self) -> str:
        """What it feeds."""
        return RAILS.get(self.name, ("not documented", None))[0]

    def watts(self) -> float | None:
        """Its power now."""
        millivolts, milliamperes = number(self.voltage), number(self.current)
        return None if millivolts is None or milliamperes is None else 1e-6 * millivolts * milliamperes


def describe(root: Path = Path("/")) -> JetsonRecord | None:
    """Model, software and power mode of the Jetson, None on another machine."""
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text(root / "etc/nv_tegra_release") or "")
    if release is None:
        return None
    gpu = _gpu(root)
    return JetsonRecord(
        model=text(root / "proc/device-tree/model"),
        l4t=f"{release[1]}.{release[2]}",
        jetpack=_jetpack(root),
        nvpmodel=_power_mode(root),
        gpu_clock_mhz=(number(gpu / "min_freq", 1e-6), number(gpu / "max_freq", 1e-6)) if gpu else None,
        gpu_governor=text(gpu / "governor") if gpu else None,
        rails={rail.name: rail.covers for rail in rails(root)},
    )


def sample(root: Path = Path("/")) -> Reading:
    """What the sensors say now."""
    gpu = _gpu(root)
    zones = (root / "sys/class/thermal").glob("thermal_zone*")
    temperatures = [number(zone / "temp", 1e-3) for zone in zones]
    coolers = (root / "sys/class/thermal").glob("cooling_device*")
    throttling = {
        kind
        for cooler in coolers
        if "throttle" in (kind := text(cooler / "type") or "") and number(cooler / "cur_state")
    }
    overcurrent = sum(number(path) or 0 for path in (root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
    return Reading(
        clock_mhz=number(gpu / "cur_freq", 1e-6) if gpu else None,
        temperature_c=max((value for value in temperatures if value is not None), default=None),
        throttling=tuple(sorted(throttling)),
        overcurrent_events=int(overcurrent),
    )


def rails(root: Path = Path("/")) -> list[Rail]:
    """The measured supplies: the named channels of each INA3221, and the INA238 at the input of a Thor."""
    found = []
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        kind = text(chip / "name")
        channels = (1, 2, 3) if kind == "ina3221" else (1,) if kind == "ina238" else ()
        for channel in channels:
            voltage, current = chip / f"in{channel}_input", chip / f"curr{channel}_input"
            name = text(chip / f"in{channel}_label") or (kind == "ina238" and "VIN")
            if name and name != "NC" and number(voltage) is not None and number(current) is not None:
                found.append(Rail(name, voltage, current))
    return found


def independent(names: list[str]) -> list[str]:
    """The rails among ``names`` whose power adds up without counting any twice.

    VDD_IN (or VIN) feeds all others and stands alone where it is measured.
    """
    return [name for name in names if RAILS.get(name, ("", None))[1] not in names]


def _gpu(root: Path) -> Path | None:
    devices = sorted((root / "sys/class/devfreq").glob("*"))
    return next((device for device in devices if GPU_NAMES.search(device.name)), None)


def _jetpack(root: Path) -> str | None:
    status = text(root / "var/lib/dpkg/status") or ""
    package = re.search(r"^Package: nvidia-jetpack\n(?:.+\n)*?Version: (\S+)", status, re.MULTILINE)
    return package and package[1]


def _power_mode(root: Path) -> str | None:
    """The name of the power mode, such as MAXN or 15W."""
    mode = re.search(r"pmode:0*(\d+)", text(root / "var/lib/nvpmodel/status") or "")
    if mode is None:
        return None
    names = re.findall(r"< *POWER_MODEL +ID=(\d+) +NAME=(\S+) *>", text(root / "etc/nvpmodel.conf") or "")
    return dict(names).get(mode[1], mode[1])
