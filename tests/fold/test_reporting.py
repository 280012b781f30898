import pytest

from layer_folding.fold.reporting import listed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["block.conv1", "block.conv2"], "conv1 + conv2"),
        (["block.a", "block.b", "block.c", "block.d"], "a + b + c + d"),
        (["block.a", "block.b", "block.c", "block.d", "block.e"], "a + ... + e (5)"),
    ],
)
def test_many_names_stay_short(names, text):
    assert listed(names, "block.", " + ") == text
