"""Whether the numbers of `python -m trt_bench bench` can be trusted: ``python -m benchmarks.timing``, 20 minutes.

Four questions, asked many times over: does a network differ from itself (it must not), is a planted slowdown of 5 %
found, does a second measurement agree with the first, and does the median agree with a plain loop around ONNX Runtime.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from benchmarks import document
from layer_folding import command_line, stats
from layer_folding.bench_results import BenchResult
from layer_folding.errors import CheckError
from layer_folding.trt_bench.measuring import Bench, measure
from layer_folding.trt_bench.runtimes import Options
from layer_folding.trt_bench.runtimes import onnxruntime as runtime

LAYERS = 20  # equal ones, so that one more costs 5 %
AGREES = 0.03
HEADER = ["held", "what should hold, and what was measured", "median [smallest, largest]"]
TURNS = 10  # of each, ours and the plain loop's

EXAMPLE = """\
example: python -m benchmarks.timing --trials 20 --seconds 3 -o runs/timing.json

exit codes: 0 all held, 1 one did not, 2 bad input
"""


@dataclass(frozen=True)
class Answer:
    """How often something held, of how many trials; ``details`` is one number for each."""

    question: str
    held: list[bool]
    details: list[float]

    def row(self) -> list[str]:
        """Of the table."""
        low, middle, high = np.percentile(self.details, [0, 50, 100])
        return [f"{sum(self.held)} of {len(self.held)}", self.question, f"{middle:.3f} [{low:.3f}, {high:.3f}]"]

    def passes(self) -> bool:
        """Whether at most one of 20 failed."""
        return sum(self.held) >= 0.95 * len(self.held)


def network(path: Path, layers: int, channels: int = 16, size: int = 16) -> str:
    """Write a chain of equal 3x3 convolutions with ReLU; one inference takes about 20 us a layer on a CPU core."""
    weight = 0.05 * np.random.default_rng(0).standard_normal((channels, channels, 3, 3), np.float32)
    names = ["x", *(f"v{index}" for index in range(layers - 1)), "y"]
    nodes = []
    for index, (source, target) in enumerate(itertools.pairwise(names)):
        nodes.append(helper.make_node("Conv", [source, "w"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [target]))
    shape = (1, channels, size, size)
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", values[:1], values[1:], [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def ask(trials: int, seconds: float, progress: Callable[[str], None] = lambda text: None) -> Iterator[Answer]:
    """Ask all four questions ``trials`` times, with ``seconds`` of timing for each network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, same = network(folder / "first.onnx", LAYERS), network(folder / "same.onnx", LAYERS)
        more = network(folder / "more.onnx", LAYERS + 1)

        def compared(other: str, label: str, count: int = trials) -> list[BenchResult]:
            results = []
            for trial in range(count):
                progress(f"{label}: {trial + 1} of {count}")
                results.append(_bench([first, other], seconds))
            return results

        alike, slower = compared(same, "the same network twice", trials + 1), compared(more, "5 % slower")
        medians = [result.models[0].latency_ms for result in alike]
        alike.pop()
        yield Answer(
            "the same network twice: no significant difference; speed-up",
            [result.verdict == "no significant difference" for result in alike],
            [result.speedup for result in alike],
        )
        yield Answer(
            "one layer in 20 more: slower; speed-up",
            [result.verdict == "slower" for result in slower],
            [result.speedup for result in slower],
        )
        pairs = list(itertools.pairwise(medians))
        yield Answer(
            "a second measurement's interval overlaps the first's; ratio of medians",
            [_overlap(a.ci95, b.ci95) for a, b in pairs],
            [b.median / a.median for a, b in pairs],
        )
        ratios = []
        for trial in range(trials):
            progress(f"plain loop: {trial + 1} of {trials}")
            ratios.append(_against_plain_loop(first, seconds))
        yield Answer(
            f"median within {AGREES:.0%} of a plain loop's; ratio of medians",
            [abs(ratio - 1) <= AGREES for ratio in ratios],
            ratios,
        )
        progress("")


def _bench(paths: list[str], seconds: float) -> BenchResult:
    return measure(paths, runtime, options=Options(), what=Bench(seconds)).result


def _overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first[0] <= second[1] and second[0] <= first[1]


def _against_plain_loop(path: str, seconds: float) -> float:
    """Our median over that of a loop as in onnxruntime_perf_test, in ten turns each, A B B A against drift."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(0).standard_normal(session.get_inputs()[0].shape, np.float32)}
    ours, plain = [], []

    def our_turn() -> None:
        ours.append(_bench([path], seconds / TURNS).models[0].latency_ms.median)

    def plain_turn() -> None:
        times, end = [], time.perf_counter() + seconds / TURNS
        while time.perf_counter() < end:
            start = time.perf_counter()
            session.run(None, feed)
            times.append(1e3 * (time.perf_counter() - start))
        plain.append(float(np.median(times)))

    for _ in range(TURNS // 2):
        for turn in (our_turn, plain_turn, plain_turn, our_turn):
            turn()
    return float(np.median(stats.paired_ratios(ours, plain)))


def main(arguments: list[str] | None = None) -> None:
    """Print the answers and how busy the machine was. Raises CheckError if one did not hold."""
    parser = command_line.Parser(
        prog="python -m benchmarks.timing",
        description=__doc__.partition("\n")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=20, help="how often each question is asked (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing for each network (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, metavar="JSON", help="write the table and its numbers here")
    given = parser.parse_args(arguments)
    document.check_output(given.output)
    before = os.getloadavg()[0]
    answers = []
    for answer in ask(given.trials, given.seconds, command_line.progress):
        answers.append(answer)
        print("  ".join(answer.row()), flush=True)
    print(f"load average {before:.1f} before and {os.getloadavg()[0]:.1f} after, on {os.cpu_count()} cores")
    if given.output:
        samples = {answer.question: answer.details for answer in answers}
        document.write(
            given.output, "benchmarks.timing", arguments, [HEADER, *(a.row() for a in answers)], samples=samples
        )
    failed = [answer.question for answer in answers if not answer.passes()]
    if failed:
        raise CheckError(f"not in 19 of 20: {'; '.join(failed)}; see whether the machine is quiet enough")


if __name__ == "__main__":
    sys.exit(command_line.run(main))
