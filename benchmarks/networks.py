"""The networks of torchvision and timm whose support is listed, and the command line of such a list."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from layer_folding.command_line import Parser
from layer_folding.errors import CheckError, InputError
from layer_folding.files import write_text


@dataclass(frozen=True)
class Network:
    """Where a network of the list comes from, the side of its square input in pixels, and arguments that it needs."""

    source: str
    pixels: int
    arguments: dict = field(default_factory=dict)


def _networks(source: str, pixels: int, names: str, **arguments: object) -> dict[str, Network]:
    return {name: Network(source, pixels, arguments) for name in names.split()}


# Images are small because a convolutional network folds in the same way at any size.
NETWORKS = (
    _networks("torchvision.models", 64, "alexnet vgg16_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2")
    | _networks("torchvision.models", 64, "densenet121 mobilenet_v2 mobilenet_v3_large mnasnet1_0 shufflenet_v2_x1_0")
    | _networks("torchvision.models", 64, "efficientnet_b0 efficientnet_v2_s regnet_y_400mf")
    | _networks("torchvision.models", 64, "googlenet", init_weights=False)
    | _networks("torchvision.models", 75, "inception_v3", init_weights=False)
    | _networks("torchvision.models", 64, "squeezenet1_1 convnext_tiny")
    | _networks("timm", 64, "mobilenetv2_100 mobilenetv2_140 efficientnet_lite0 efficientnet_lite4 repvgg_a0 resnet26d")
    | _networks("timm", 64, "regnetx_002 hardcorenas_a fbnetc_100 darknet53 cspresnet50 dla34 hrnet_w18_small")
    | _networks("timm", 64, "ghostnet_100 mixnet_s")
    | _networks("torchvision.models", 64, "vit_b_16", image_size=64)
    | _networks("torchvision.models", 64, "swin_t")
    | _networks("timm", 64, "deit_tiny_patch16_224 mixer_s32_224", img_size=64)
)


class Row(Protocol):
    """What was found out about one network; ``failure`` says why it does not pass, None if it does."""

    name: str
    failure: str | None


def main(
    module: str,
    description: str,
    measure: Callable[[str], Row],
    table: Callable[[list[Row]], str],
    page: Callable[[list[Row]], str],
    arguments: list[str] | None,
) -> None:
    """`python -m MODULE [NETWORK...] [-o FILE]`: measure networks of the list, print the table or write the page.

    Raises InputError for a name that is not in the list, and CheckError, at the end, where a network failed.
    """
    parser = Parser(prog=f"python -m {module}", description=description)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="one of the list; all of them by default")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a page with the table to FILE")
    options = parser.parse_args(arguments)
    for name in options.networks:
        if name not in NETWORKS:
            raise InputError(f"{name}: not in the list; choose from {', '.join(NETWORKS)}")
    rows = []
    for name in options.networks or NETWORKS:
        started = time.perf_counter()
        rows.append(measure(name))
        print(f"{name}: {rows[-1].failure or 'passes'}, {time.perf_counter() - started:.1f} s", file=sys.stderr)
        gc.collect()  # networks have cycles, and the next one needs the memory
    if options.output:
        write_text(options.output, page(rows))
    else:
        print(table(rows))
    failed = [row.name for row in rows if row.failure]
    if failed:
        raise CheckError(f"{len(failed)} of {len(rows)} networks failed, the table says how: {', '.join(failed)}")
