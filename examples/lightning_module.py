"""Layer folding with Lightning: the same as plain.py, where the loop is not yours either (pip install lightning).

python examples/lightning_module.py
"""

import lightning
import torch
import torch.nn.functional as F
from plain import accuracy, digits, network, optimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import layer_folding as lf


class Classifier(lightning.LightningModule):
    """Any module of yours: gates need their penalty in the loss, and an optimiser that knows them."""

    def __init__(self, model: nn.Module, lr: float, penalty: float = 0.0):
        super().__init__()
        self.model, self.lr, self.penalty = model, lr, penalty

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.model(images), labels)
        return loss + self.penalty * lf.depth_penalty(self.model) if lf.gates(self.model) else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer(self.model, self.lr)


def fit(module: Classifier, batches: DataLoader, epochs: int) -> None:
    """Train on the CPU, without anything on the screen or on the disk."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(max_epochs=epochs, accelerator="cpu", **quiet).fit(module.train(), batches)


def main(epochs: int = 4) -> lf.FoldResult:
    """Train, learn which activations can go, take them out, fine-tune, fold."""
    lightning.seed_everything(0, verbose=False)
    learn, test = digits()
    batches = DataLoader(TensorDataset(*learn), batch_size=64, shuffle=True)
    model, example = network(), learn[0][:1]
    fit(Classifier(model, lr=0.05), batches, epochs)
    print(f"original   {100 * accuracy(model, *test):.1f} %, {lf.depth(model, example)} layers")

    gated = lf.linearize(model, example)
    fit(Classifier(gated, lr=0.01, penalty=1.0), batches, epochs)
    hard, _ = lf.hoist_padding(lf.harden(gated), example)
    fit(Classifier(hard, lr=0.01), batches, epochs)
    result = lf.fold(hard.eval(), example)

    print(f"fine-tuned {100 * accuracy(hard, *test):.1f} %")
    print(f"folded     {100 * accuracy(result.model, *test):.1f} %, {lf.depth(result.model, example)} layers")
    return result


if __name__ == "__main__":
    main()
