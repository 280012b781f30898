import math

import pytest

from layer_folding.errors import CheckError
from layer_folding.files import write_json


def test_no_file_is_written_from_a_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1.5]})
    for value in (math.nan, math.inf):
        with pytest.raises(CheckError, match=r"x.json: not written, a result in it is NaN or infinite"):
            write_json(tmp_path / "x.json", {"a": [value]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1.5\n  ]\n}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
