import json

import pytest

from layer_folding import fold_results
from layer_folding.errors import InputError
from layer_folding.fold_results import (
    Agreement,
    Costs,
    FoldRecord,
    MergedLayers,
    NetworkCost,
    SkippedLayer,
)
from layer_folding.recipes import Network

RECORD = FoldRecord(
    folded=(MergedLayers("a_b", ("a", "b"), ("relu",), (5, 5), (1, 1), (18432, 25600), (296, 404), 1.5e-15),),
    skipped=(SkippedLayer("head", "flatten is not linear"),),
    max_error=1.5e-15,
    cost=Costs(NetworkCost(4, 700, 40000), NetworkCost(3, 808, 47168)),
    accuracy={"original": 0.97, "folded": 0.96},
    agreement=Agreement(360, 359, 1),
    model=Network("layer_folding:resnet20", {"classes": 10}),
    kept={"c.relu": "merging c + d would cost 2.4x the MACs"},
)


def test_round_trip(tmp_path):
    fold_results.save(tmp_path / "fold.json", RECORD)
    assert fold_results.load(tmp_path / "fold.json") == RECORD
    content = json.loads((tmp_path / "fold.json").read_text())
    assert content["cost"]["folded"] == {"depth": 3, "parameters": 808, "macs": 47168}
    assert content["folded"][0]["macs"] == [18432, 25600] and content["schema"] == fold_results.SCHEMA


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cost": {}}, "cost.original is missing"),
        ({"folded": [{}]}, r"folded\[0\].name is missing"),
        ({"skipped": "all"}, "skipped is 'all', not a list"),
        ({"accuracy": {"folded": "1"}}, "accuracy.folded is '1', not a number"),
        ({"max_error": float("nan")}, "NaN is no JSON"),
    ],
)
def test_damage_is_one_line_that_names_the_place(tmp_path, change, says):
    fold_results.save(tmp_path / "fold.json", RECORD)
    content = json.loads((tmp_path / "fold.json").read_text())
    (tmp_path / "fold.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=rf"fold\.json: damaged: {says}; fold again"):
        fold_results.load(tmp_path / "fold.json")
