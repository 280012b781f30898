"""The check of commands notices what is wrong with one."""

import pytest

from tests.docs.commands import check, check_mention, commands
from tests.docs.pages import blocks


@pytest.mark.parametrize(
    "command",
    [
        "make demo",
        "make prefold fold export MODEL=resnet20 DATA=digits EPOCHS=1",
        "make trt-bench BOARD=user@board",
        ".venv/bin/python -m train prefold --run runs/demo --epochs 3",
        "torchrun --nproc-per-node 4 -m -- train prefold --run runs/demo",
        "python -m export segments runs/demo",
        "layer-folding prefold --run runs/demo --epochs 3",
        ".venv/bin/layer-folding segments runs/demo",
        "python examples/plain.py",
        "pip install -e '.[trt]'",
        "OMP_NUM_THREADS=1 python -m pytest tests",
        "sudo reboot",
    ],
)
def test_what_is_right_passes(command):
    (words,) = commands(command)
    check(words)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("make demoo", "demoo"),
        ("make demo MODELL=x", "MODELL"),
        ("make prefold MODEL=resnet21", "unknown model"),
        ("make trt-bench BATCH=none", "--batch"),
        ("make trt-bench BOARD=user@board RUNTIME=none", "none"),
        ("python -m train prefold", "--run"),
        ("python -m train prefold --run runs/demo --epoch-s 3", "--epoch-s"),
        ("torchrun --nproc-per-node 4 -m -- train prefold --run runs/demo --nothing", "--nothing"),
        ("python -m export segments runs/demo --nothing", "--nothing"),
        ("layer-folding prefold --run runs/demo --nothing", "--nothing"),
        ("layer-folding prefodl", "prefodl"),
        ("python -m trainn", "trainn"),
        ("python -m fold.affine", "fold.affine"),
        ("python examples/none.py", "none.py"),
        ("pip install -e '.[none]'", "none"),
        ("nonsense", "nonsense"),
    ],
)
def test_what_is_wrong_is_told(command, reason):
    (words,) = commands(command)
    with pytest.raises(ValueError, match=reason):
        check(words)


@pytest.mark.parametrize(
    "text",
    [
        "make plan",
        "python -m train {prefold,finetune} -lr",
        "python -m export --opset 17",
        "layer-folding export --opset",
    ],
)
def test_a_mention_need_not_be_complete(text):
    check_mention(text)


@pytest.mark.parametrize("text", ["make plann", "layer-folding prefold --distil", "python -m export --opse 17"])
def test_but_has_to_be_right(text):
    with pytest.raises(ValueError, match=r"plann|distil|opse"):
        check_mention(text)


def test_a_line_is_taken_apart_into_commands():
    text = "cd runs && ls -l | cat  # all\nmake a \\\n  b; echo 'c && d'\n"
    assert commands(text) == [["cd", "runs"], ["ls", "-l"], ["cat"], ["make", "a", "b"], ["echo", "c && d"]]


def test_blocks_come_with_their_notes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- not run: needs\na board -->\n```sh\nmake demo\n```\n\n```\nout\n```\n")
    command, output = blocks(page)
    assert (command.language, command.text, command.line) == ("sh", "make demo\n", 6)
    assert command.notes == {"not run": "needs\na board"}
    assert (output.language, output.notes) == ("", {})
