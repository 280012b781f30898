"""The networks whose support is listed, and the command line of such a list."""

from __future__ import annotations

import argparse
import gc
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from benchmarks import deployed
from layer_folding.command_line import Parser
from layer_folding.errors import CheckError, InputError
from layer_folding.files import write_text
from layer_folding.fold.model_names import build


@dataclass(frozen=True)
class Network:
    """A network of the list: the package that it is from, the side of its square input in pixels, what makes it."""

    package: str
    pixels: int
    make: Callable[[], nn.Module]


def _known(source: str, pixels: int, names: str, **arguments: object) -> dict[str, Network]:
    """Networks that `MODEL=` knows by name."""
    package = source.partition(".")[0]
    return {name: Network(package, pixels, partial(build, f"{source}:{name}", arguments)) for name in names.split()}


def _made(package: str, pixels: int, make: Callable[..., nn.Module], names: str, **settings: Any) -> dict[str, Network]:
    return {name: Network(package, pixels, partial(make, name, **settings)) for name in names.split()}


# Images are small because a convolutional network folds in the same way at any size.
NETWORKS = (
    _known("torchvision.models", 64, "alexnet vgg16_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2")
    | _known("torchvision.models", 64, "densenet121 mobilenet_v2 mobilenet_v3_large mnasnet1_0 shufflenet_v2_x1_0")
    | _known("torchvision.models", 64, "efficientnet_b0 efficientnet_v2_s regnet_y_400mf")
    | _known("torchvision.models", 64, "googlenet", init_weights=False)
    | _known("torchvision.models", 75, "inception_v3", init_weights=False)
    | _known("torchvision.models", 64, "squeezenet1_1 convnext_tiny")
    | _known("timm", 64, "mobilenetv2_100 mobilenetv2_140 efficientnet_lite0 efficientnet_lite4 repvgg_a0 resnet26d")
    | _known("timm", 64, "regnetx_002 hardcorenas_a fbnetc_100 darknet53 cspresnet50 dla34 hrnet_w18_small")
    | _known("timm", 64, "ghostnet_100 mixnet_s")
    | _known("torchvision.models", 64, "vit_b_16", image_size=64)
    | _known("torchvision.models", 64, "swin_t")
    | _known("timm", 64, "deit_tiny_patch16_224 mixer_s32_224", img_size=64)
    | _made("ultralytics", 64, deployed.yolo, "yolov8n yolov8n-cls yolov8n-seg yolov8n-pose")
    | _made("ultralytics", 64, deployed.yolo, "yolo11n yolo11n-cls yolo11n-seg yolo11n-pose")
    | _made("ultralytics", 64, deployed.yolo, "yolo26n yolo26n-cls yolo26n-seg yolo26n-pose")
    | _made("transformers", 64, deployed.transformer, "MobileNetV2 ResNet RegNet ConvNext Segformer")
    | _made("transformers", 64, deployed.transformer, "ViT", image_size=64)
    | _made("segmentation-models-pytorch", 64, deployed.segmenter, "Unet FPN")
    | _known("torchvision.models", 64, "fcn_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large")
    | _made("torchvision", 64, deployed.backbone, "ssdlite320_mobilenet_v3_large.backbone")
    | _made("torchvision", 64, deployed.backbone, "fasterrcnn_mobilenet_v3_large_fpn.backbone")
    | _made("torchvision", 64, deployed.frozen_backbone, "fasterrcnn_resnet50_fpn.backbone")
    | _made("facenet-pytorch", 96, deployed.facenet, "InceptionResnetV1")
    | _known("timm", 64, "mobilenetv4_conv_small mobilenetv4_hybrid_medium mobileone_s0 fastvit_t8 repghostnet_050")
    | _known("timm", 64, "tinynet_e lcnet_050 efficientvit_b0 res2net50_14w_8s ese_vovnet19b_dw resnest14d")
    | _known("timm", 64, "levit_128s", img_size=64)
    | _known("timm", 128, "efficientvit_m0", img_size=128)
    | _made("timm", 64, deployed.features, "resnet18.features mobilenetv2_100.features")
)
PACKAGES = (
    "torch", "torchvision", "timm", "ultralytics-opencv-headless", "transformers", "segmentation-models-pytorch",
    "facenet-pytorch",
)  # fmt: skip


class Row(Protocol):
    """What was found out about one network; ``failure`` says why it does not pass, None if it does."""

    name: str
    failure: str | None


def parser(module: str, description: str) -> Parser:
    """The options of `python -m MODULE [NETWORK...] [-o FILE]`, for `run`."""
    found = Parser(prog=f"python -m {module}", description=description)
    found.add_argument("networks", nargs="*", metavar="NETWORK", help="one of the list; all of them by default")
    found.add_argument(
        "-o", "--output", type=Path, metavar="FILE",
        help="write a page with the table to FILE; of given networks, their rows on the page that FILE is",
    )  # fmt: skip
    return found


def run(
    options: argparse.Namespace,
    columns: Sequence[str],
    measure: Callable[[str], Row],
    cells: Callable[[Row], list[str]],
    page: Callable[[list[list[str]]], str],
) -> None:
    """Measure networks of the list, and print the table of ``cells`` or write the page, which has the table in it.

    Raises InputError for a name that is not in the list and for a page with other columns, and CheckError, at the end,
    where a network failed.
    """
    for name in options.networks:
        if name not in NETWORKS:
            raise InputError(f"{name}: not in the list; choose from {', '.join(NETWORKS)}")
    rows = _rows_of(options.output, len(columns)) if options.output and options.networks else {}
    failed = []
    for name in options.networks or NETWORKS:
        started = time.perf_counter()
        row = measure(name)
        rows[name] = cells(row)
        failed += [name] if row.failure else []
        print(f"{name}: {row.failure or 'passes'}, {time.perf_counter() - started:.1f} s", file=sys.stderr)
        gc.collect()  # networks have cycles, and the next one needs the memory
        if options.output:  # at once: measuring takes hours
            write_text(options.output, page(_in_order(rows)))
    if not options.output:
        print(table(columns, _in_order(rows)))
    if failed:
        count = len(options.networks or NETWORKS)
        raise CheckError(f"{len(failed)} of {count} networks failed, the table says how: {', '.join(failed)}")


def _in_order(rows: dict[str, list[str]]) -> list[list[str]]:
    return [rows[name] for name in NETWORKS if name in rows]


def _rows_of(page: Path, columns: int) -> dict[str, list[str]]:
    """The rows of the table on a page, by network; none where there is no page yet."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("| ")]
    found = {row[0]: row for row in rows if row[0] in NETWORKS}
    if any(len(row) != columns for row in found.values()):
        raise InputError(f"{page}: its table has other columns; write it anew, without naming networks")
    return found


def table(columns: Sequence[str], rows: list[list[str]]) -> str:
    """Markdown, a line for each row."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def cell(text: str) -> str:
    """``text`` for a cell of the table."""
    return text.replace("|", "\\|")


FAILED = "**FAILED: "


def passed(rows: list[list[str]]) -> str:
    """How many of the networks in ``rows``, which end with what failed, pass."""
    return f"{sum(not row[-1].startswith(FAILED) for row in rows)} of {len(rows)} networks pass"


def versions(packages: Sequence[str]) -> str:
    """The installed versions of ``packages``."""
    return ", ".join(f"{package} {version_of(package)}" for package in packages)


def version_of(package: str) -> str:
    """The installed version of ``package``."""
    try:
        return version(package)
    except PackageNotFoundError:  # its networks fail, and say so
        return "(not installed)"
