import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commands(*arguments: object) -> list[str]:
    """What make would run, one command each, without the shell's line breaks."""
    dry = ["make", "--dry-run", "--no-print-directory", *map(str, arguments)]
    run = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True)
    return [" ".join(line.split()) for line in run.stdout.replace("\\\n", "").splitlines()]


def test_prefold_learns_or_takes_a_table_or_a_plan():
    ends = {
        "LAMBDA=1": "-m train prefold --run 'r' --lambda 1",
        "LATENCY=t.csv": "-m train prefold --run 'r' --latency 't.csv'",
        "PLAN=r/plan.txt": "-m train prefold --run 'r' --gate all --remove 'r/plan.txt'",
    }
    for given, end in ends.items():
        assert commands("prefold", "RUN=r", given)[-1].endswith(end)


def test_a_run_that_has_its_network_needs_not_be_told_of_it_again(tmp_path):
    (tmp_path / "original.safetensors").touch()

    def is_pretrained(*given: str) -> bool:
        command = next(line for line in commands("pretrain", f"RUN={tmp_path}", *given) if "train pretrain" in line)
        condition = command.partition(" || ")[0]
        return subprocess.run(condition, shell=True).returncode != 0

    assert not is_pretrained() and not is_pretrained("EPOCHS=2")
    assert is_pretrained("MODEL=resnet20") and is_pretrained("WEIGHTS=w.pt", "DATA=cifar10/")
    (tmp_path / "original.safetensors").unlink()
    assert is_pretrained()


def test_report_is_of_one_run_or_of_several():
    assert commands("report", "RUN=r")[-1].endswith("-m report 'r'")
    assert commands("report", "RUNS=r s")[-1].endswith("-m report r s -o frontier.html")


def test_a_plan_that_is_not_there_is_said_before_anything_is_trained(tmp_path):
    given = ["make", "--no-print-directory", "aim", f"PLAN={tmp_path / 'plan.txt'}", "LATENCY=Makefile"]
    run = subprocess.run(given, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.startswith(f"error: {tmp_path / 'plan.txt'}: no such file")
    assert commands("prefold", "RUN=r", "PLAN=p")[0].startswith("for file in '' 'p'")
    (tmp_path / "plan.txt").touch()
    assert subprocess.run(given, cwd=ROOT).returncode == 0
