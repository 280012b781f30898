import pytest

from layer_folding import Importance, read_importance
from layer_folding.errors import InputError
from layer_folding.fit_choices import Choice
from layer_folding.importance_tables import write_importance

FITS = {Choice(("a.relu",), (3, 3)): 0.25, Choice(("b.relu", "a.relu"), "none"): 0.75}
IMPORTANCE = Importance({("a.relu",): 0.5, ("b.relu", "a.relu"): 0.125, (): 0.0}, "cross entropy", fits=FITS)


def test_what_was_written_is_read(tmp_path):
    write_importance(tmp_path / "importance.csv", IMPORTANCE)
    found = read_importance(tmp_path / "importance.csv")
    assert (found.losses, found.fits, found.unit) == (IMPORTANCE.losses, FITS, "cross entropy")
    assert found.source == str(tmp_path / "importance.csv")


def test_the_order_of_activations_does_not_matter():
    assert IMPORTANCE.of(["a.relu", "b.relu"]) == IMPORTANCE.of({"b.relu", "a.relu"}) == 0.125
    assert IMPORTANCE.of(["b.relu"]) is None


def test_a_fit_is_known_by_its_shape():
    assert IMPORTANCE.of(["a.relu"], (3, 3)) == IMPORTANCE.of(["a.relu"], 3) == 0.25
    assert IMPORTANCE.of(["a.relu", "b.relu"], "none") == 0.75 and IMPORTANCE.of(["a.relu"], (3, 1)) is None
    with pytest.raises(InputError, match="a set is there twice"):
        Importance({}, "points", fits={Choice(("a",), 3): 1.0, Choice(("a",), (3, 3)): 2.0})


def test_a_file_without_shapes_has_exact_merges(tmp_path):
    (tmp_path / "importance.csv").write_text("activations,points\na b,0.5\n")
    found = read_importance(tmp_path / "importance.csv")
    assert (found.losses, found.fits, found.unit) == ({("a", "b"): 0.5}, {}, "points")


@pytest.mark.parametrize("loss", [-1.0, float("nan"), float("inf")])
def test_losses_are_numbers_from_0(loss):
    with pytest.raises(InputError, match=f"the importance: a loss is {loss}"):
        Importance({("a",): loss}, "points")


def test_a_set_is_there_once():
    with pytest.raises(InputError, match="a set is there twice"):
        Importance({("a", "b"): 1.0, ("b", "a"): 2.0}, "points")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its header is "),
        (b"a,b,c\n", "its header is a,b,c"),
        (b"activations,points\na,1\na,1\n", "a set is there twice"),
        (b"activations,points\na,nan\n", "a loss is nan"),
        (b"activations,points\na,-2\n", "a loss is -2.0"),
        (b"activations,shape,points\na,3x,1\n", "'3x' is no shape"),
        (b"activations,shape,points\na,1\n", "a row has 2 values"),
        (b"activations,shape,points\na,3,1\na,3x3,1\n", "a set is there twice"),
        (b"activations,points\na\n", "no table of importances"),
        (b"activations,points\na,x\n", "no table of importances"),
        (b"\xff\xfe\x00", "no table of importances"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, content, message):
    path = tmp_path / "importance.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_importance(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: no such file; write it with"):
        read_importance(tmp_path / "none.csv")
