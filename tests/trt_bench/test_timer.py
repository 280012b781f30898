import numpy as np
import pytest

from layer_folding.trt_bench import inference_times, timer


class Machine:
    """A clock that only the networks advance, and a log of what ran: (time before in s, name, inferences)."""

    def __init__(self):
        self.now_ns = 0
        self.log = []

    def clock(self):
        return self.now_ns

    def network(self, name, seconds, spike=None):
        """One that takes ``seconds``, and at inference number ``spike`` of each block ten times as long."""

        def repeat(count):
            self.log.append((1e-9 * self.now_ns, name, count))
            costs_ns = [round(1e9 * seconds) * (10 if index == spike else 1) for index in range(count)]
            stamps = self.now_ns + np.cumsum([0, *costs_ns])
            self.now_ns = int(stamps[-1])
            return inference_times.of_host(stamps.tolist())

        return repeat


def measured(*costs_s, seconds=1.0, **options):
    machine = Machine()
    networks = [machine.network("ABC"[index], cost) for index, cost in enumerate(costs_s)]
    return machine, timer.measure(networks, seconds, clock=machine.clock, **options)


@pytest.mark.parametrize(("costs_s", "turn"), [((0.004,), "AA"), ((0.004, 0.002), "ABBA"), ((0.01,) * 3, "ABCCBA")])
def test_networks_take_turns_there_and_back(costs_s, turn):
    machine, timing = measured(*costs_s)
    blocks = 2 * len(turn) * timing.conditions.rounds  # one untimed inference and one block each
    names = [name for _, name, _ in machine.log[-blocks:]]
    assert "".join(names[::2]) == turn * timing.conditions.rounds == "".join(names[1::2])
    assert {count for _, _, count in machine.log[-blocks::2]} == {1}


def test_samples_are_the_time_of_one_inference():
    _, timing = measured(0.0001, 0.0004)
    for samples, cost in zip(timing.samples_ms, (0.1, 0.4), strict=True):
        assert samples == pytest.approx([cost] * 2 * timing.conditions.rounds)
    for trace, samples, count in zip(
        timing.traces, timing.samples_ms, timing.conditions.iterations_per_block, strict=True
    ):
        assert trace.shape == (len(samples) * count, inference_times.COLUMNS)
    assert timing.host_ms[0] == pytest.approx(timing.samples_ms[0])


@pytest.mark.parametrize("cost_s", [0.00001, 0.001, 0.3])
def test_times_at_least_as_long_and_as_often_as_promised(cost_s):
    machine, timing = measured(cost_s, 2 * cost_s, seconds=1.5)
    iterations = timing.conditions.iterations_per_block
    for samples, count in zip(timing.samples_ms, iterations, strict=True):
        assert sum(samples) * count / 1e3 >= 1.5 * (1 - 1e-9)
        assert len(samples) >= 10
        assert len(samples) <= 2 * timer.MAX_SAMPLES
    assert iterations[0] * cost_s >= 0.002 * (1 - 1e-9)
    assert machine.now_ns < 1e9 * (1.5 + 80 * 2 * cost_s) * 4


@pytest.mark.parametrize("cost_s", [0.01, 0.15])
def test_warms_up_for_200_ms_and_three_inferences(cost_s):
    machine, timing = measured(cost_s)
    blocks = 4 * timing.conditions.rounds
    warm_up = machine.log[:-blocks]
    assert len(warm_up) >= 3
    assert machine.log[-blocks][0] >= 0.2
    assert sum(count for _, _, count in warm_up) * cost_s == pytest.approx(machine.log[-blocks][0])


def test_one_interruption_does_not_make_a_block_slow_but_is_in_the_trace():
    machine = Machine()
    timing = timer.measure([machine.network("A", 0.0005, spike=2)], 0.1, clock=machine.clock)
    assert timing.samples_ms[0] == pytest.approx([0.5] * len(timing.samples_ms[0]))
    assert min(timing.host_ms[0]) > 0.6
    assert inference_times.latency(timing.traces[0]).max() == pytest.approx(5)


def test_sensors_are_read_once_a_round():
    calls = []
    _, timing = measured(0.004, 0.002, between=lambda: calls.append(0))
    assert len(calls) == timing.conditions.rounds


def test_progress_says_the_time_left():
    lines = []
    measured(0.1, 0.1, seconds=2, progress=lines.append)
    assert lines[0] == "warm-up" and lines[-1] == ""
    assert lines[1:-1] == [f"timing, {left} s left" for left in (7, 6, 6, 5, 4, 3, 2, 2, 1, 0)]


def test_a_segment_in_its_network_runs_twice_after_the_whole():
    machine = Machine()
    repeat = timer.in_network(machine.network("segment", 0.001), machine.network("whole", 0.1))
    inferences = repeat(2)
    assert [(name, count) for _, name, count in machine.log] == [("whole", 1), ("segment", 2)] * 2
    assert inference_times.latency(inferences) == pytest.approx([1.0] * 4)  # of the segment alone


@pytest.mark.parametrize("whole_s", [0.01, 0.0001])  # a block has one of each, or many
def test_a_sample_in_the_network_lies_between_an_inference_with_cold_caches_and_one_with_warm(whole_s):
    machine = Machine()
    cold_then_warm = machine.network("segment", 0.0001, spike=0)  # ten times as long at first
    timing = timer.measure(
        [timer.in_network(cold_then_warm, machine.network("whole", whole_s))], 0.1, clock=machine.clock, untimed=0
    )
    assert timing.samples_ms[0] == pytest.approx([0.55] * len(timing.samples_ms[0]))
    assert timing.conditions.untimed_inferences_per_block == 0
