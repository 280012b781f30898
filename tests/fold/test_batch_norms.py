import torch
from torch import nn

from layer_folding.fold.batch_norms import take_statistics


def test_statistics_are_those_of_the_images():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Dropout(), nn.BatchNorm2d(4)).train()
    images = torch.randn(500, 3, 6, 6, generator=torch.Generator().manual_seed(0)) + 2
    model[1].running_mean.fill_(7)
    take_statistics(model, images)
    values = model[0](images)
    torch.testing.assert_close(model[1].running_mean, values.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model[1].running_var, values.var((0, 2, 3)), rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(model[3].running_mean, torch.zeros(4), rtol=0, atol=1e-3)
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.3


def test_a_network_without_batch_norms_stays_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).train()
    take_statistics(model, torch.zeros(2, 3, 6, 6))
    assert not model.training
