import json

import pytest

from layer_folding import run_config
from layer_folding.errors import InputError
from layer_folding.records import OtherSchemaError
from layer_folding.run_config import Config, StageRun

CONFIG = Config(
    {
        "pretrain": StageRun({"data": "digits", "mean": [0.5]}, {"weights": "cfea6cbc"}, {"torch": None}, "abc"),
        "prefold": StageRun({"gate_weights": {"relu": 1.5}}),
    }
)


def test_what_is_written_is_read(tmp_path):
    assert run_config.read(tmp_path) is None
    run_config.write(tmp_path, CONFIG)
    assert run_config.read(tmp_path) == CONFIG


def test_a_run_of_another_version_is_refused_in_a_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"schema": 1, "stages": {}}))
    with pytest.raises(OtherSchemaError, match="is of schema 1, and this version reads schema 2; give another"):
        run_config.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged: "),
        ('{"schema": 2}', "damaged: stages is missing"),
        ('{"schema": 2, "stages": {"prefold": []}}', r"damaged: stages\.prefold is \[\], not an object"),
        ('{"schema": 2, "stages": {"prefold": {"settings": {}, "files": {"a": 1}}}}', "files.a is 1, not a string"),
    ],
)
def test_what_is_damaged_is_said(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=rf"config\.json: .*{message}"):
        run_config.read(tmp_path)
