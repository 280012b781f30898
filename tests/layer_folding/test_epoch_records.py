import pytest

from layer_folding import epoch_records
from layer_folding.epoch_records import Epoch, Metrics
from layer_folding.errors import InputError

EPOCHS = (
    Epoch("prefold", 1, 0.91, 20, 0.5, 0.4, 0.9, 1.5, {"layer1.0.relu, odd": 0.125, "b": 1e-9}),
    Epoch("finetune", 1, 0.96, 14, 0.2, 0.2, 0.0, 1.5),
)


def test_round_trip(tmp_path):
    epoch_records.write(tmp_path / "metrics.csv", EPOCHS)
    assert epoch_records.read(tmp_path / "metrics.csv") == Metrics(EPOCHS)
    header, first, _ = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header == 'stage,epoch,loss,task,accuracy,penalty,depth,seconds,"layer1.0.relu, odd",b'
    assert first == "prefold,1,0.5,0.4,0.91,0.9,20,1.5,0.125,1e-09"


def test_no_file_has_no_epochs(tmp_path):
    assert epoch_records.read(tmp_path / "metrics.csv") == Metrics()


def test_half_a_row_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    epoch_records.write(path, EPOCHS)
    path.write_text(path.read_text()[:-3])
    assert epoch_records.read(path) == Metrics(EPOCHS[:1], cut_off=True)


@pytest.mark.parametrize(
    "text",
    [
        "stage,epoch\nprefold,1\n",
        "stage,epoch,accuracy,depth\nprefold,1,0.9\n",
        "stage,epoch,accuracy,depth\nprefold,1,0.9,20,7\n",
        "stage,epoch,accuracy,depth\nprefold,1,nan,20\n",
        "stage,epoch,accuracy,depth,a\nprefold,1,0.9,20,inf\n",
        "stage,epoch,accuracy,depth\nprefold,one,0.9,20\n",
        "\x00",
    ],
)
def test_damage_is_one_line(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.csv: damaged: .*; delete it, and the next epoch writes it again"):
        epoch_records.read(tmp_path / "metrics.csv")
