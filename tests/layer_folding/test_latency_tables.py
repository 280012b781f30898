import json
from dataclasses import replace

import pytest

from layer_folding import read_table
from layer_folding.errors import InputError
from layer_folding.latency_rows import Row
from layer_folding.latency_tables import Conditions, read_sidecar, write_table
from tests.fold.plan.latency_tables import table, timed

TABLE = table(timed("apart 0,2", 3.0), timed("1,2", 0.5, (8, 4, 4)), timed("0,2", 1 / 3), timed("active 0,2", 1.0))


@pytest.fixture
def path(tmp_path):
    write_table(tmp_path / "latency.csv", TABLE)
    return tmp_path / "latency.csv"


def test_what_was_written_is_read(path):
    found = read_table(path)
    assert found == TABLE and found.source == str(path)
    assert found.rows == [Row(0, 2, 1 / 3, 0.01), Row(1, 2, 0.5, 0.01)]
    assert found.conditions == Conditions("onnxruntime", "EPYC", 1, "fp32")
    assert path.read_text().splitlines()[0] == "st,end,time,stdev"


def test_a_table_gives_the_time_of_a_segment_of_this_network(path):
    found = read_table(path)
    assert found.timing("1,2", (8, 4, 4)).time == 0.5
    assert found.timing("apart 0,2", (3, 8, 8)).error == pytest.approx(0.01)
    with pytest.raises(InputError, match=r"segment 0,9 is missing; measure"):
        found.timing("0,9", (3, 8, 8))
    with pytest.raises(InputError, match=r"takes \[8, 4, 4\], in this network \[3, 8, 8\]; give the table of this"):
        found.timing("1,2", (3, 8, 8))


def test_a_table_that_is_not_complete_has_no_csv_and_goes_on(tmp_path):
    path = tmp_path / "latency.csv"
    write_table(path, replace(TABLE, complete=False))
    assert not path.exists()
    assert read_sidecar(path.with_suffix(".json"), "remove it") == replace(TABLE, complete=False)
    path.write_text("st,end,time,stdev\n0,2,0.5,0\n")
    with pytest.raises(InputError, match="not all segments are measured yet"):
        read_table(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("device"), "device is missing"),
        (lambda d: d["device"].pop("name"), "device.name is missing"),
        (lambda d: d.update(device=5), "device is 5"),
        (lambda d: d["settings"].update(batch=0), "settings.batch is 0"),
        (lambda d: d["segments"][1].update(time=float("nan")), "NaN is no JSON"),
        (lambda d: d["segments"][1].update(time=-1), r"segments\[1\].time is -1"),
        (lambda d: d["segments"][1].update(ci95=[2, 1]), r"segments\[1\]: ci95 is \[2.0, 1.0\]"),
        (lambda d: d["segments"][1].update(visits_ms=[[]]), r"segments\[1\]: visits_ms has no samples"),
        (
            lambda d: d["segments"][1].update(whole_ms=[0, 1, 2]),
            r"segments\[1\]: whole_ms is \[0.0, 1.0, 2.0\]",
        ),
        (lambda d: d["segments"][1].update(names="1,2"), r"segments\[1\].names is '1,2', not a list"),
        (lambda d: d["segments"][1].update(input_shape=[1, 0]), r"segments\[1\].input_shape\[1\] is 0"),
        (lambda d: d["segments"][2].update(time=9), "row 0,2 is not that of"),
        (lambda d: d.update(schema=1), "is of schema 1, and this version reads schema 4"),
    ],
)
def test_damaged_tables_are_one_line(path, change, message):
    sidecar = path.with_suffix(".json")
    document = json.loads(sidecar.read_text())
    change(document)
    sidecar.write_text(json.dumps(document))
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
