"""A plan that fits layers, from the stage prefold to a folded network, and what is refused on the way."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from layer_folding import fold_results
from layer_folding.fold import checkpoints, saving
from layer_folding.fold.fitting import network_fit, sides
from layer_folding.plans import write_plan
from layer_folding.run_config import read
from tests.fold.fitting.test_network_fit import merge, plan
from tests.train.test_commands import FAST, ROOT, call, fold

FIRST = ("blocks.1.expand.act", "blocks.1.depthwise.act")
SECOND = ("blocks.3.expand.act", "blocks.3.depthwise.act")
CHOICES = (f"{','.join(FIRST)}=3", f"{','.join(SECOND)}=none")


@pytest.fixture(scope="module")
def pretrained(images, weights, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fits") / "run"
    network = ("--model", "mobilenetv2-digits", "--data", images, "--weights", weights)
    assert call("pretrain", "--run", folder, *network) == 0
    return folder


@pytest.fixture
def run(pretrained, tmp_path, capsys) -> Path:
    capsys.readouterr()
    return Path(shutil.copytree(pretrained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_from_a_plan_to_a_folded_network(run, tmp_path, capsys):
    (tmp_path / "plan.txt").write_text("\n".join(CHOICES))
    assert call("prefold", "--run", run, *FAST, "--gate", "all", "--remove", tmp_path / "plan.txt") == 0
    out, err = capsys.readouterr()
    assert "blocks.1.expand.conv + blocks.1.depthwise.conv + blocks.1.project.conv" in out
    assert "accuracy original 50.00 %, prefold " in out and not err
    assert not list(run.glob(".prefold*"))
    model, recipe = checkpoints.load(run / "prefold.safetensors")
    assert [record.choice for record in recipe.fitted] == list(CHOICES)
    assert set(recipe.accuracy) == {"original", "prefold"}
    assert call("finetune", "--run", run, *FAST, "--distill", 0.5, "--distill-features", 1) == 0
    assert fold("fold", run) == 0
    record = fold_results.load(run / "fold.json")
    assert record.fitted == recipe.fitted
    assert set(record.accuracy) == {"original", "prefold", "hardened", "folded"}
    assert record.max_error <= 1e-9 and record.agreement.same == record.agreement.images
    assert (record.cost.original.depth, record.cost.folded.depth) == (21, 16)
    assert record.of_original[0].layers == recipe.fitted[0].layers and record.of_original[0].activations == FIRST
    folded, recipe = checkpoints.load(run / "folded.safetensors")
    assert recipe.removed == () and recipe.hoisted is None and recipe.gate is None
    x = torch.randn(2, *recipe.input_shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(saving.load(run / "hardened.safetensors")(x), folded(x), rtol=1e-4, atol=1e-4)
    assert model(x).shape == folded(x).shape
    again = saving.load(run / "folded.safetensors")
    saving.save(tmp_path / "again.safetensors", again, network="mobilenetv2-digits", example=x)
    assert checkpoints.read(tmp_path / "again.safetensors")[0].fitted == recipe.fitted


@pytest.mark.slow
def test_each_way_to_say_it_makes_the_same_network(run, tmp_path):
    """A plan.json, a plan.txt, the command fit, and what a plan merges exactly as the shape merged."""
    given = plan(merge(*FIRST), merge(*SECOND, shape="3"))
    write_plan(tmp_path / "plan.json", given)
    (tmp_path / "plan.txt").write_text("\n".join(given.lines))
    copies = [Path(shutil.copytree(run, tmp_path / str(number))) for number in range(4)]
    assert call("fit", copies[0], "--plan", tmp_path / "plan.json") == 0
    assert call("fit", copies[1], "--choose", f"{','.join(FIRST)}=merged", f"{','.join(SECOND)}=3") == 0
    assert call("prefold", "--run", copies[2], "--remove", tmp_path / "plan.json") == 0
    assert call("prefold", "--run", copies[3], "--remove", tmp_path / "plan.txt") == 0
    assert len({tuple(sorted(contents(copy).items())) for copy in copies}) == 1


def test_a_fit_that_is_done_is_not_repeated_and_another_needs_another_run(run, capsys):
    fit = ("fit", run, "--choose", CHOICES[0])
    assert call(*fit) == 0
    before = contents(run)
    assert call(*fit) == 0
    assert "prefold: done before" in capsys.readouterr().out
    assert call("fit", run, "--choose", CHOICES[1]) == 2
    assert "prefold was started there with other settings (choices was " in capsys.readouterr().err
    assert call("prefold", "--run", run, *FAST) == 2
    assert contents(run) == before


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on_at_the_last_fitted_layer(run, tmp_path, monkeypatch):
    choices = (*CHOICES, "blocks.5.expand.act,blocks.5.depthwise.act=3")
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    assert call("fit", whole, "--choose", *choices) == 0
    command = [sys.executable, "-m", "train", "fit", str(run), "--choose", *choices]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    while not (run / ".prefold.state").exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (run / "prefold.safetensors").exists()
    solved, fit_layer = [], network_fit.fit_layer
    monkeypatch.setattr(network_fit, "fit_layer", lambda *args: solved.append(args) or fit_layer(*args))
    assert call("fit", run, "--choose", *choices) == 0
    assert len(solved) < len(choices)
    assert contents(run) == contents(whole)


def test_a_damaged_state(run, capsys):
    (run / ".prefold.state").write_bytes(b"half")
    assert call("fit", run, "--choose", CHOICES[0]) == 2
    assert f"{run / '.prefold.state'}: damaged; delete it, and prefold starts from the beginning" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--choose", "blocks.9.act=3"], "activation 'blocks.9.act' is not in the network; its activations: "),
        (["--choose", f"{FIRST[0]}=9"], "shape 9 does not fit into the merged kernel, which is 3x3"),
        (["--choose", f"{FIRST[0]},{SECOND[0]}=3"], "these activations are in 2 regions; give a choice for each"),
        (["--choose", CHOICES[0], f"{FIRST[0]}=3"], "both replace blocks.1.expand.conv"),
        (["--choose", CHOICES[0], CHOICES[0].replace("=3", "=1")], f"{' '.join(FIRST)}: is chosen twice"),
        (["--choose", CHOICES[0], "--images", "1"], "1 images are too few for the 145 unknowns of each output"),
        (["--choose", FIRST[0]], "is no choice of a fit; give ACTIVATION=SHAPE"),
        (["--choose", f"{FIRST[0]}=big"], "'big' is no shape; give a kernel size"),
        (["--plan", "missing.txt"], "missing.txt: No such file or directory"),
        (["--plan", "missing.json"], "missing.json"),
        ([], "nothing to fit; give --choose NAME=SHAPE, or --plan FILE"),
        (
            ["--choose", CHOICES[0], "--images", "photos"],
            "--images photos: is no number of images; a folder is for an ONNX file",
        ),
        (["--choose", CHOICES[0], "--speedup", "2"], "--speedup and --budget-ms are for an ONNX file"),
    ],
)
def test_what_cannot_be_fitted_leaves_the_run_as_it_was(run, capsys, given, message):
    before = contents(run)
    assert call("fit", run, *given) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert contents(run) == before
    assert call("fit", run, "--choose", CHOICES[0]) == 0


def test_plans_that_no_fit_carries_out(run, tmp_path, capsys):
    before = contents(run)
    change = "+blocks.1.project.bn=blocks.1.depthwise.act"
    write_plan(tmp_path / "plan.json", plan(merge(*FIRST, change), merge(*SECOND, shape="3")))
    write_plan(tmp_path / "nothing.json", plan())
    (tmp_path / "plan.txt").write_text(f"{CHOICES[0]}\n{change}")
    for name in ("plan.json", "plan.txt"):
        for command in (("fit", run, "--plan"), ("prefold", "--run", run, "--remove")):
            assert call(*command, tmp_path / name) == 2
            assert f"error: {change}: a fit adds no activation, which takes training" in capsys.readouterr().err
    assert call("fit", run, "--plan", tmp_path / "nothing.json") == 2
    assert "nothing.json: the plan is to fold nothing; keep the original network" in capsys.readouterr().err
    assert contents(run) == before


def test_a_layer_that_is_worse_than_a_constant_is_refused_unless_forced(run, capsys, monkeypatch):
    monkeypatch.setattr(sides.RelativeError, "value", 1.5)
    before = contents(run)
    assert call("fit", run, "--choose", *CHOICES) == 1
    assert "the error is 1.50 times that of a constant" in capsys.readouterr().err
    assert contents(run) == before
    assert call("fit", run, "--choose", *CHOICES, "--force") == 0
    assert read(run).stages["prefold"].settings["force"] is True


def test_another_seed_draws_other_images(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    assert call("fit", run, "--choose", CHOICES[0], "--images", 40) == 0
    assert call("fit", other, "--choose", CHOICES[0], "--images", 40, "--seed", 1) == 0
    assert contents(run)["prefold.safetensors"] != contents(other)["prefold.safetensors"]
