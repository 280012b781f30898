"""What `make jetson-setup` leaves behind: a Python that can do what the benchmark needs, or none."""

import subprocess
import venv

import pytest

from layer_folding.errors import InputError
from layer_folding.trt_bench import jetson_setup


@pytest.fixture
def board(monkeypatch, tmp_path):
    """board(pip, trial): an environment that takes no time; what pip and the trial of TensorRT then answer."""
    ran = []

    def answer(pip=(0, ""), trial=(0, "None\n")):
        def run(command, **options):
            ran.append(command)
            code, text = pip if "pip" in command else trial
            return subprocess.CompletedProcess(command, code, text, text)

        monkeypatch.setattr(subprocess, "run", run)
        monkeypatch.setattr(venv, "create", lambda folder, **options: (folder / "bin").mkdir(parents=True))
        return tmp_path / "python", ran

    return answer


def test_an_environment_is_there_when_tensorrt_finds_the_gpu_from_it(board):
    folder, ran = board()
    jetson_setup.install("cuda-python>=12.0,<12.7", folder)
    assert (folder / "bin").is_dir() and not folder.with_name("python.new").exists()
    assert [command[1:] for command in ran] == [
        ("-m", "pip", "install", "--quiet", "cuda-python>=12.0,<12.7"),
        ("-c", "from trt_bench.runtimes.tensorrt import TENSORRT; print(TENSORRT.obstacle())"),
    ]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"pip": (1, "no network\n")}, r"<12\.7: pip cannot install it \(no network\); connect the board"),
        ({"trial": (0, "no GPU was found (cudaErrorNoDevice)\n")}, "TensorRT cannot be used here: no GPU was found"),
        ({"trial": (1, "ImportError: x\n")}, "cannot run trt_bench"),
    ],
)
def test_what_fails_leaves_no_environment_and_keeps_the_one_before(board, answers, message):
    folder, _ = board(**answers)
    (folder / "kept").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        jetson_setup.install("cuda-python>=12.0,<12.7", folder)
    assert [path.name for path in folder.parent.iterdir()] == ["python"] and (folder / "kept").is_dir()


def test_a_python_without_venv_leaves_nothing(monkeypatch, tmp_path):
    def half(folder, **options):
        (folder / "bin").mkdir(parents=True)
        raise subprocess.CalledProcessError(1, ["ensurepip"])

    monkeypatch.setattr(venv, "create", half)
    with pytest.raises(InputError, match="sudo apt install python3-venv"):
        jetson_setup.install("cuda-python", tmp_path / "python")
    assert list(tmp_path.iterdir()) == []
