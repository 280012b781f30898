"""The network that an argument on the command line means."""

from pathlib import Path

from torch import nn

from fold import checkpoint
from fold.errors import InputError


def open_network(text: str, shape: list[int] | None) -> tuple[nn.Module, list[int]]:
    """The network ``text`` and the shape `[C, H, W]` of one image.

    ``text`` is a run folder, whose original network is meant, a checkpoint, or a name such as
    torchvision.models:resnet50, which comes with fresh weights and needs ``shape``. Raises InputError.
    """
    if ":" in text and not Path(text).exists():
        if not shape or min(shape) < 1:
            raise InputError(f"{text}: a name needs the size of an image, such as --input 3 224 224")
        return checkpoint.build(text, {}).eval(), shape
    path = Path(text) / "original.safetensors" if Path(text).is_dir() else Path(text)
    model, recipe = checkpoint.load(path)
    return model, recipe["input_shape"]
