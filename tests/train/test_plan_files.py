"""Plans and changes as the command line gives them; what a fit makes of them, tests/train/test_fitting.py tests."""

import pytest

from layer_folding.errors import InputError
from layer_folding.fit_choices import MERGED, Choice
from layer_folding.plans import write_plan
from layer_folding.train.plan_files import as_fits, changes, fits
from tests.fold.fitting.test_network_fit import merge, plan


def test_changes_from_the_command_line_or_a_file(tmp_path):
    assert changes("a,b, c") == ("a", "b", "c")
    assert len(changes(",".join(f"blocks.{index}.expand.act" for index in range(300)))) == 300
    assert changes("a,b=3") == ("a,b=3",)
    assert changes("a,b,+c=a") == ("a", "b", "+c=a")
    (tmp_path / "plan.txt").write_text("a\nb,c\n\n d,e=none \n+f=a\n")
    assert changes(str(tmp_path / "plan.txt")) == ("a", "b", "c", "d,e=none", "+f=a")
    write_plan(tmp_path / "plan.json", plan(merge("a", "b"), merge("c")))
    assert changes(str(tmp_path / "plan.json")) == ("a", "b", "c")
    (tmp_path / "plan.txt").write_text("\n")
    for nothing in ("", ","):
        with pytest.raises(InputError, match="no name in it"):
            changes(nothing)
    with pytest.raises(InputError, match=r"plan.txt: the plan is to fold nothing; keep the original network"):
        changes(str(tmp_path / "plan.txt"))


def test_what_a_plan_merges_exactly_is_fitted_at_the_size_of_the_merge(tmp_path):
    write_plan(tmp_path / "plan.json", plan(merge("a", "b"), merge("c", shape="3x1")))
    assert fits(str(tmp_path / "plan.json")) == (Choice(("a", "b"), MERGED), Choice(("c",), (3, 1)))
    (tmp_path / "plan.txt").write_text("a\nb,c=3\n")
    assert fits(str(tmp_path / "plan.txt")) == (Choice(("a",), MERGED), Choice(("b", "c"), 3))


def test_an_addition_is_refused():
    with pytest.raises(InputError, match=r"\+a.conv2=a.relu: a fit adds no activation, which takes training"):
        as_fits(["a.relu=3", "+a.conv2=a.relu"])
