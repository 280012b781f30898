import json

import numpy as np
import pytest

from layer_folding.trt_bench import inference_times


def test_inferences_of_the_host_follow_each_other():
    stamps = inference_times.of_host([5_000_000, 7_000_000, 7_500_000])
    assert stamps.shape == (2, inference_times.COLUMNS)
    assert inference_times.latency(stamps).tolist() == pytest.approx([2.0, 0.5])
    assert inference_times.part(stamps, "compute").tolist() == pytest.approx([2.0, 0.5])
    assert not any(inference_times.part(stamps, name).any() for name in ("enqueue", "h2d", "d2h"))


def test_export_is_trtexecs_json(tmp_path):
    """Names and meaning as in trtexec's sampleReporting.cpp (exportJSONTrace)."""
    row = [10.0, 10.1, 9.0, 9.5, 9.5, 12.5, 12.5, 12.75]
    inference_times.export(tmp_path / "times.json", np.array([row, [value + 5 for value in row]]))
    first, second = json.loads((tmp_path / "times.json").read_text())
    assert list(first) == [
        *("startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs"),
        *("startComputeMs", "endComputeMs", "startD2hMs", "endD2hMs"),
        *("h2dMs", "computeMs", "d2hMs", "latencyMs"),
    ]
    assert first["startH2dMs"] == 0 and first["startEnqMs"] == pytest.approx(1)
    assert [first[name] for name in ("h2dMs", "computeMs", "d2hMs", "latencyMs")] == pytest.approx([0.5, 3, 0.25, 3.75])
    assert second["endD2hMs"] == pytest.approx(8.75)
