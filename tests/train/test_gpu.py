"""On a machine with a GPU: the commands that fit use it, and leave files that need none."""

import pytest
import torch

from layer_folding.fold import checkpoints
from layer_folding.importance_tables import read_importance
from tests.train.test_commands import FAST, call, fold

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_run_is_fitted_trained_and_folded(images, weights, tmp_path):
    run = tmp_path / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    assert call("pretrain", "--run", run, *network) == 0
    torch.cuda.reset_peak_memory_stats()
    assert fold("importance", run, "--from", "fit", "--images", 48) == 0
    assert torch.cuda.max_memory_allocated() > 0
    assert read_importance(run / "importance.csv").fits
    torch.cuda.reset_peak_memory_stats()
    assert call("fit", run, "--choose", "blocks.1.expand.act,blocks.1.depthwise.act=3", "--force") == 0
    assert torch.cuda.max_memory_allocated() > 0
    model, recipe = checkpoints.load(run / "prefold.safetensors")
    assert recipe.fitted and not any(value.is_cuda for value in model.state_dict().values())
    assert call("finetune", "--run", run, *FAST, "--distill", 0.5) == 0
    assert fold("fold", run) == 0
