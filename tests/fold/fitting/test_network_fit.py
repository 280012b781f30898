"""lf.fit on small networks: what comes out, what stays exact, what is refused."""

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

import layer_folding as lf
from layer_folding import CheckError, InputError, Plan
from layer_folding.latency_tables import Conditions
from layer_folding.plans import PlannedMerge
from tests.fold.networks import WIDTH, Calls, Skip, activations, blocks, conv, randomised

fit = functools.partial(lf.fit, tuned=False)  # what the layers are by themselves
IMAGES = torch.randn(96, WIDTH, 9, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def network(*layers: nn.Module, classes: int = 3) -> nn.Module:
    """``layers`` behind a stem and in front of a classifier, in float64."""
    torch.manual_seed(0)
    stem = nn.Sequential(conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH), nn.ReLU())
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(classes))
    model = nn.Sequential(stem, nn.Sequential(*layers), head).double().eval()
    model(IMAGES[:2])
    return randomised(model)


def pair(kernel: int = 3, **options) -> nn.Sequential:
    return nn.Sequential(conv(WIDTH, 6, kernel, **options), nn.BatchNorm2d(6), nn.ReLU(), conv(6, WIDTH, kernel))


def relative(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("kind", blocks())
def test_every_kind_of_block(kind):
    """One layer for each activation in the block that lets layers merge; folded, the network is the fitted one."""
    model = blocks()[kind].double()
    images = torch.randn(64, WIDTH, 15, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    candidates = lf.scan(model, images[:1]).candidates
    names = [name for candidate in candidates for name in candidate.activations]
    result = fit(model, images, {tuple(names): "merged"}, force=True)
    assert result.layers[0].activations == tuple(names)
    result.model.eval()
    assert result.model(images).shape == model(images).shape
    assert set(activations(result.model, images[:1])) == set(activations(model, images[:1])) - set(names)
    folded = lf.fold(result.model, images[:1])
    assert relative(folded.model(images), result.model(images)) < 1e-9
    assert [m for m in folded.folded if result.layers[0].name in m.layers]


@pytest.mark.parametrize("shape", [1, 3, (3, 1), 5, "merged", "depthwise", "none"])
def test_every_shape_keeps_size_and_dtype(shape):
    model = network(Skip(pair()))
    for dtype in (torch.float64, torch.float32):
        typed = copy.deepcopy(model).to(dtype)
        result = fit(typed, IMAGES.to(dtype), {"1.0.body.2": shape}, force=True)
        fitted = result.model.eval()
        assert fitted(IMAGES.to(dtype)).dtype is dtype
        assert fitted(IMAGES.to(dtype)).shape == model(IMAGES).shape
        assert (result.layers[0].shape, result.layers[0].layers) == (shape, ("1.0.body.0", "1.0.body.3"))
        kernels = {1: (1, 1), 3: (3, 3), (3, 1): (3, 1), 5: (5, 5), "merged": (5, 5), "depthwise": (5, 5)}
        layer = fitted.get_submodule(result.layers[0].name)
        if shape == "none":
            assert isinstance(layer, nn.BatchNorm2d)
        else:
            assert layer.kernel_size == kernels[shape]
            assert layer.groups == (WIDTH if shape == "depthwise" else 1)


def test_a_larger_shape_is_closer():
    model = network(pair())
    errors = [fit(model, IMAGES, {"1.0.2": shape}, force=True).layers[0].error for shape in (1, 3, 5)]
    assert errors[0] > errors[1] > errors[2]


def test_activations_that_never_act_give_the_exact_merge():
    """All that the first layer gives is positive, so the fit at the size of the merge is the merge."""
    model = network(pair(padding=0)[:3], conv(6, WIDTH, padding=0))
    with torch.no_grad():
        model[1][0][1].weight.abs_()
        model[1][0][1].bias.fill_(1000.0)
    fitted = fit(model, IMAGES, {"1.0.2": "merged"})
    exact = copy.deepcopy(model)
    exact[1][0][2] = nn.Identity()
    exact[1][0][2].removed = True
    merged = lf.fold(exact, IMAGES[:1])
    again = lf.fold(fitted.model.eval(), IMAGES[:1])
    weights = [m.model.get_submodule(m.folded[0].name).weight for m in (merged, again)]
    assert relative(weights[1], weights[0]) < 1e-6
    assert relative(again.model(IMAGES), model(IMAGES)) < 1e-6
    assert fitted.layers[0].error < 1e-6
    assert fitted.divergence < 1e-9
    assert fitted.agreement == 1


def test_a_layer_is_recovered_from_data():
    """An activation between a layer and one that undoes it: what the region computes is a 3x3 layer."""
    torch.manual_seed(1)
    first, last = conv(WIDTH, 2 * WIDTH), conv(2 * WIDTH, WIDTH, 1)
    with torch.no_grad():
        first.weight[WIDTH:], first.bias[WIDTH:] = -first.weight[:WIDTH], -first.bias[:WIDTH]
        last.weight[:, WIDTH:] = -last.weight[:, :WIDTH]  # relu(a) - relu(-a) = a
    model = network(first, nn.ReLU(), last)
    result = fit(model, IMAGES, {"1.1": 3})
    found = lf.fold(result.model.eval(), IMAGES[:1]).model.get_submodule("1.0_2_1")
    truth = torch.einsum("om,mikl->oikl", last.weight[:, :WIDTH, 0, 0], first.weight[:WIDTH])
    assert result.layers[0].error < 1e-3
    assert relative(found.weight, truth) < 1e-2


def test_the_skip_is_exact_and_outside_of_the_fit():
    model = network(Skip(pair(), conv(WIDTH, WIDTH, 1)))
    with torch.no_grad():
        model[1][0].body[3].weight.zero_()
        model[1][0].body[3].bias.zero_()
    result = fit(model, IMAGES, {"1.0.body.2": 3})
    assert result.layers[0].error < 1e-9
    assert result.model.get_submodule("1.0.shortcut").weight.equal(model[1][0].shortcut.weight)
    assert len(lf.fold(result.model.eval(), IMAGES[:1]).folded) == 1


def test_later_fits_repair_what_earlier_ones_lose():
    model = network(Skip(pair()), nn.ReLU(), Skip(pair()))
    together = fit(model, IMAGES, {"1.0.body.2": 1, "1.2.body.2": 3})
    second = fit(model, IMAGES, {"1.2.body.2": 3}).model
    first = fit(model, IMAGES, {"1.0.body.2": 1}).model
    for part in ("1.2.body.0_3", "1.2.body.0_3_norm"):
        first.get_submodule("1.2").body.add_module(part.rpartition(".")[2], second.get_submodule(part))
    apart = copy.deepcopy(together.model)
    for name in ("1.2.body.0_3", "1.2.body.0_3_norm"):
        apart.set_submodule(name, second.get_submodule(name))
    expected = model[:2](IMAGES[::8])

    def error(fitted: nn.Module) -> float:
        kept = []
        handle = fitted.get_submodule("2.0").register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        fitted.eval()(IMAGES[::8])
        handle.remove()
        return (kept[0] - expected).square().mean().item()

    assert error(together.model) < error(apart)


def test_choices_in_any_order_give_the_same_bytes():
    model = network(Skip(pair()), nn.ReLU(), Skip(pair()))
    one = fit(model, IMAGES, {"1.0.body.2": 3, "1.2.body.2": 1}).model.state_dict()
    other = fit(model, IMAGES, {"1.2.body.2": 1, "1.0.body.2": 3}).model.state_dict()
    assert list(one) == list(other)
    assert all(one[name].equal(other[name]) for name in one)


def merge(*activations: str, shape: str | None = None) -> PlannedMerge:
    return PlannedMerge(("a", "b"), activations, (5, 5), (1, 1), "apart", "merged", 2.0, 1.0, 0.1, 0.0, shape)


def plan(*merges: PlannedMerge) -> Plan:
    return Plan(Conditions("onnxruntime", "EPYC", 1, "fp32"), 9.0, 0.1, 9, merges, "activations", None, ())


def test_a_plan_is_carried_out_and_its_exact_merges_are_fitted_too():
    model = network(Skip(pair()), nn.ReLU(), Skip(pair()))
    by_plan = fit(model, IMAGES, plan(merge("1.0.body.2"), merge("1.2.body.2", shape="3x1")))
    by_choices = fit(model, IMAGES, {"1.0.body.2": "merged", "1.2.body.2": (3, 1)})
    assert by_plan.layers == by_choices.layers
    assert by_plan.model.get_submodule(by_plan.layers[0].name).kernel_size == (5, 5)


def test_plans_that_no_fit_carries_out():
    model = network(Skip(pair()))
    added = plan(merge("1.0.body.2", "+1.0.body.3=1.0.body.2"))
    refused(model, IMAGES, added, r"\+1.0.body.3=1.0.body.2: a fit adds no activation, which takes training")
    refused(model, IMAGES, plan(), "the plan is to fold nothing; keep the original network")


def test_a_fit_goes_on_from_the_layers_that_are_known():
    model = network(Skip(pair()), nn.ReLU(), Skip(pair()), nn.ReLU(), pair())
    choices = {"1.0.body.2": 3, "1.2.body.2": "none", "1.4.2": 1}
    known, solved = {}, []

    def solve(choice, fit_it):
        if choice not in known:
            solved.append(choice.names)
            known[choice] = fit_it()
        return known[choice]

    whole = lf.fit(model, IMAGES, choices, solve=solve)
    assert solved == list(choices)
    known.popitem()
    again = lf.fit(model, IMAGES, choices, solve=solve)
    assert solved == [*choices, "1.4.2"]
    assert again.layers == whole.layers and again.divergence == whole.divergence
    weights = again.model.state_dict()
    assert all(weights[name].equal(value) for name, value in whole.model.state_dict().items())


def test_progress_names_each_layer_and_each_epoch_of_tuning():
    said = []
    lf.fit(network(Skip(pair())), IMAGES, {"1.0.body.2": (3, 1)}, progress=said.append)
    assert said[:3] == ["layer 1 of 1: 1.0.body.2=3x1", "tuning", "tuning: epoch 1 of 8"] and said[-1] == ""


def test_the_network_given_is_not_modified():
    model = network(Skip(pair())).train()
    before = copy.deepcopy(model.state_dict())
    result = fit(model, IMAGES, {"1.0.body.2": 3})
    assert model.training
    assert all(module.training for module in result.model.modules() if isinstance(module, (nn.BatchNorm2d, nn.Conv2d)))
    assert all(before[name].equal(value) for name, value in model.state_dict().items())
    theirs = {tensor.data_ptr() for tensor in model.parameters()}
    assert not theirs & {tensor.data_ptr() for tensor in result.model.parameters()}


def test_the_batch_norm_starts_training_with_the_same_function():
    model = network(Skip(pair()))
    fitted = fit(model, IMAGES, {"1.0.body.2": 3}).model.eval()
    layer = fitted.get_submodule("1.0.body.0_3_norm")
    read = []
    layer.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    fitted(IMAGES)
    values = read[0].transpose(0, 1).flatten(1)
    assert relative(layer.running_mean, values.mean(1)) < 0.1
    assert relative(layer.running_var, values.var(1)) < 0.1
    optimizer = torch.optim.SGD(fitted.train().parameters(), lr=0.05)
    nn.functional.cross_entropy(fitted(IMAGES), model(IMAGES).argmax(1)).backward()
    optimizer.step()
    assert all(value.isfinite().all() for value in fitted.state_dict().values())


def test_a_linear_layer_and_tokens():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 9), nn.GELU(), nn.Linear(9, 5))
    images = torch.randn(64, 6, 5, dtype=torch.float64)
    model = nn.Sequential(Skip(layers), nn.Flatten(), nn.Linear(30, 3)).double().eval()
    result = fit(model, images, {"0.body.1": 1})
    assert isinstance(result.model.get_submodule("0.body.0_2"), nn.Linear)
    assert result.layers[0].error < 0.5
    rows = nn.Sequential(nn.Linear(30, 9), nn.GELU(), nn.Linear(9, 3)).double().eval()
    one = fit(rows, torch.randn(128, 30, dtype=torch.float64), {"1": 1})
    assert isinstance(one.model.get_submodule(one.layers[0].name + "_norm"), nn.BatchNorm1d)


@pytest.mark.parametrize("axes", [1, 3])
def test_other_numbers_of_axes(axes):
    torch.manual_seed(0)
    layer = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
    pool = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[axes]
    body = nn.Sequential(layer(4, 6, 3, padding=1), nn.ReLU(), layer(6, 4, 3, padding=1))
    model = nn.Sequential(Skip(body), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(4, 3)).double().eval()
    images = torch.randn(64, 4, *(7,) * axes, dtype=torch.float64)
    result = fit(model, images, {"0.body.1": 3})
    folded = lf.fold(result.model.eval(), images[:1])
    assert relative(folded.model(images), result.model(images)) < 1e-9


def test_an_activation_before_a_pooling():
    """The pooling moves in front of the layer, as it does when layers are merged."""
    torch.manual_seed(0)
    model = network(conv(WIDTH, 8, 1))
    result = fit(model, IMAGES, {"2.0": 1})
    assert result.layers[0].layers == ("1.0", "2.3")
    assert isinstance(result.model.get_submodule(result.layers[0].name), nn.Linear)
    assert relative(lf.fold(result.model.eval(), IMAGES[:1]).model(IMAGES), result.model(IMAGES)) < 1e-9


def test_branches_that_are_concatenated():
    def forward(self, x):
        return self.after(torch.cat([self.act(self.one(x)), self.act2(self.other(x))], 1))

    parts = {
        "one": conv(WIDTH, 3, 1),
        "other": conv(WIDTH, 5),
        "act": nn.ReLU(),
        "act2": nn.ReLU(),
        "after": conv(8, 4, 1),
    }
    model = network(Calls(forward, **parts))
    result = fit(model, IMAGES, {("1.0.act", "1.0.act2"): 3})
    assert result.model.get_submodule(result.layers[0].name).in_channels == WIDTH
    assert result.layers[0].error < 1


def refused(model: nn.Module, images: Tensor, choices: dict, message: str, error: type = InputError, **options) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message) as caught:
        fit(model, images, choices, **options)
    assert "\n" not in str(caught.value)
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


def test_bad_choices():
    model = network(Skip(pair()), nn.ReLU(), Skip(pair()))
    refused(model, IMAGES, {}, "choices: none are given")
    refused(model, IMAGES, {"1.0.body.9": 3}, "activation '1.0.body.9' is not in the network; its activations: 0.2, ")
    refused(model, IMAGES, {"2.0": 3}, "no single layer can replace the layers around 2.0")
    refused(model, IMAGES, {("1.0.body.2", "1.2.body.2"): 3}, "these activations are in 2 regions")
    refused(model, IMAGES, {"1.0.body.2": 7}, "1.0.body.2: shape 7 does not fit into the merged kernel, which is 5x5")
    refused(network(pair(), nn.ReLU(), pair()), IMAGES, {"1.0.2": 3, "1.1": 3}, "1.0.2 and 1.1 both replace 1.0.3")
    refused(network(conv(4, 6), nn.ReLU(), conv(6, 6)), IMAGES, {"1.1": "none"}, "shape none needs a skip")


def test_bad_images():
    model = network(Skip(pair()))
    few = r"1.0.body.2: 1 images are too few for the 37 unknowns of each output; give at least \d, or a smaller shape"
    refused(model, IMAGES[:1], {"1.0.body.2": 3}, few)
    spoiled = IMAGES.clone()
    spoiled[5, 0, 3, 3] = float("nan")
    refused(model, spoiled, {"1.0.body.2": 3}, "images: some pixels are not finite")
    refused(model, IMAGES[:, :2], {"1.0.body.2": 3}, "does not accept an input of shape")
    refused(model, 1e200 * IMAGES, {"1.0.body.2": 3}, "values there that are not finite on these images")


def test_images_that_are_not_normalised():
    model = network(Skip(pair())).train()
    with torch.no_grad():
        for _ in range(50):
            model(IMAGES)
    refused(model, IMAGES * 255, {"1.0.body.2": 3}, "images: at 0.1 their variance is .* times that of the images")
    assert fit(model, IMAGES, {"1.0.body.2": 3}).layers


def test_a_fit_that_is_worse_than_a_constant():
    model = network(conv(WIDTH, WIDTH), nn.Tanh(), conv(WIDTH, WIDTH))
    images = IMAGES.clone()
    images[::8] *= 1000  # only on these is it measured
    refused(model, images, {"1.1": 3}, "the error is .* times that of a constant; leave the fit out", CheckError)
    assert fit(model, images, {"1.1": 3}, force=True).layers[0].error > 1


def test_a_sum_in_which_only_the_skip_has_layers():
    """Nothing would be replaced if the skip stayed: all of the sum is fitted."""
    model = network(Skip(nn.ReLU(), conv(WIDTH, WIDTH, 1)), conv(WIDTH, WIDTH))
    (result,) = fit(model, IMAGES, {"1.0.body": 3}).layers
    assert result.layers == ("1.0.shortcut", "1.1")
    before = network(conv(WIDTH, WIDTH, 1), Skip(nn.ReLU(), conv(WIDTH, WIDTH, 1)))
    (result,) = fit(before, IMAGES, {"1.1.body": 1}).layers
    assert result.layers == ("1.0", "1.1.shortcut")


def test_a_layer_that_the_skip_reads_too():
    """`last(act(first(x))) + skip(first(x))`: the first layer stays, for the skip."""

    def forward(self, x):
        x = self.first(x)
        return self.last(self.act(x)) + self.skip(x)

    layers = {"first": conv(WIDTH, 6), "act": nn.ReLU(), "last": conv(6, WIDTH), "skip": conv(6, WIDTH, 1)}
    result = fit(network(Calls(forward, **layers)), IMAGES, {"1.0.act": 3})
    assert result.layers[0].layers == ("1.0.last",)
    assert result.layers[0].error < 1


def test_more_unknowns_than_memory_is_for():
    wide = nn.Sequential(
        nn.Conv2d(WIDTH, 512, 1), nn.ReLU(), pair_of_wide_layers(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    message = "2.1: each output has 12801 unknowns, and the normal equations of more than 8192 take too much memory"
    refused(wide.double().eval(), IMAGES, {"2.1": 5}, message)


def pair_of_wide_layers() -> nn.Sequential:
    return nn.Sequential(conv(512, 4), nn.ReLU(), conv(4, 8))
