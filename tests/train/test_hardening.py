"""What fine-tuning begins with."""

import pytest
import torch

import layer_folding as lf
from layer_folding.fold import checkpoints
from layer_folding.fold.batch_norms import take_statistics
from layer_folding.fold.models import build
from tests.train.test_commands import call


@pytest.mark.parametrize(("alpha", "changes"), [(1.0, False), (0.3, True)])
def test_new_statistics_are_kept_where_they_help(images, tmp_path, alpha, changes):
    """Gates that are open to 1 change nothing when they are removed, so the statistics of the training stay."""
    torch.manual_seed(0)
    network = build("resnet20", 2, shortcut="B", head="fc")
    gated = lf.linearize(network, torch.zeros(1, 3, 32, 32), gate="all", linear="identity")
    for gate in list(lf.gates(gated).values())[1:]:
        gate.alpha.data.fill_(alpha)
    take_statistics(gated, torch.randn(64, 3, 32, 32))
    state = {name: value for name, value in gated.state_dict().items() if not name.endswith("alpha")}
    names = [f"layer{stage}.{block}.alpha{n}.alpha" for stage in (1, 2, 3) for block in range(3) for n in (1, 2)]
    torch.save({**state, **{name: torch.tensor([alpha]) for name in names}}, tmp_path / "prefold.ckpt")
    arguments = ("--model", "resnet20", "--data", images, "--weights", tmp_path / "prefold.ckpt")
    assert call("pretrain", "--run", tmp_path / "run", *arguments, "--epochs", 0) == 0
    assert call("prefold", "--run", tmp_path / "run", "--epochs", 0) == 0
    few = ("--threshold", 0.2, "--max-growth", 1000)
    assert call("finetune", "--run", tmp_path / "run", "--epochs", 0, *few) == 0
    before, after = (checkpoints.read(tmp_path / "run" / f"{name}.safetensors")[1] for name in ("prefold", "hardened"))
    means = [name for name in after if name.endswith("running_mean")]
    assert len(means) == 21 and {torch.equal(before[name], after[name]) for name in means} == {not changes}
