from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer_folding import records
from layer_folding.errors import InputError


@dataclass(frozen=True)
class Inner:
    size: int
    share: float = 0.5

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size {self.size} is below 1")


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    inner: Inner
    pair: tuple[float, float]
    many: tuple[Inner, ...] = ()
    flag: bool = False
    maybe: int | None = None
    free: object = None
    table: Mapping[str, float] = field(default_factory=dict)
    count: records.Count = 0
    sizes: tuple[records.Size, ...] = ()
    time: records.NonNegative | None = None


WHOLE = Outer("x", "b", Inner(2), (1.0, 2.5), (Inner(1), Inner(3, 0.25)), True, 7, [{"a": None}], {"k": 1.0})
JSON = {"name": "x", "kind": "a", "inner": {"size": 2}, "pair": [1, 2]}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def test_round_trip():
    assert records.decode(Outer, records.as_json(WHOLE)) == WHOLE
    assert records.encode(Inner(2), 3) == {"schema": 3, "size": 2, "share": 0.5}
    assert records.as_json({Path("a"): Path("b/c")}) == {"a": "b/c"}


def test_numbers_become_what_the_field_says():
    found = records.decode(Outer, JSON)
    assert found.pair == (1.0, 2.0) and all(isinstance(value, float) for value in found.pair)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": 3}, "name is 3, not a string"),
        ({"name": "\ud800"}, r"name is '\\ud800', not a string"),
        ({"name": "a\0b"}, r"name is 'a\\x00b', not a string"),
        ({"kind": "c"}, "kind is 'c', not one of a, b"),
        ({"kind": ["a"]}, "kind is"),
        ({"inner": {"size": 1.5}}, "inner.size is 1.5, not a whole number"),
        ({"inner": {"size": True}}, "inner.size is True, not a whole number"),
        ({"inner": {"size": 10**30}}, "inner.size is 10+, not a whole number"),
        ({"inner": {"size": 0}}, "inner: size 0 is below 1"),
        ({"pair": [1]}, r"pair is \[1\], not a list of 2"),
        ({"pair": [1, float("inf")]}, r"pair\[1\] is inf, not a number"),
        ({"pair": [1, 10**400]}, r"pair\[1\] is 10+\.\.\., not a number"),
        ({"many": [{"size": 1}, None]}, r"many\[1\] is None, not an object"),
        ({"table": {"k": "v"}}, "table.k is 'v', not a number"),
        ({"count": -1}, "count is -1, not a whole number, 0 or more"),
        ({"count": True}, "count is True, not a whole number, 0 or more"),
        ({"sizes": [1, 0]}, r"sizes\[1\] is 0, not a whole number, 1 or more"),
        ({"time": -0.5}, "time is -0.5, not a number, 0 or more"),
        ({"time": "1"}, "time is '1', not a number, 0 or more"),
        ({"new": 1}, "new is not known"),
        ({"inner": {"size": 1, "colour": 1}}, r"inner\.colour is not known"),
        ({"name": ["x" * 1000]}, r"name is \['x{58}\.\.\., not a string"),
    ],
)
def test_what_is_wrong_is_named(change, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        records.decode(Outer, {**JSON, **change})


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"^inner\.size is missing$"):
        records.decode(Outer, {**JSON, "inner": {}})


def test_more_keys_pass_where_they_may():
    assert records.decode(Outer, {**JSON, "new": 1}, more=True) == records.decode(Outer, JSON)


@given(st.sampled_from([*JSON, "many", "flag", "maybe", "table", "count", "sizes", "time"]), values)
def test_any_value_is_read_or_refused_in_a_line(key, value):
    try:
        found = records.decode(Outer, {**JSON, key: value})
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
    else:
        assert records.decode(Outer, records.as_json(found)) == found


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "NaN", '{"schema": NaN}', "9" * 5000, "[]", "{}", '{"schema": true}']
)
def test_a_text_that_is_no_record_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        records.parse(Inner, text, 1)


def test_other_schemas_are_told_apart(tmp_path):
    (tmp_path / "x.json").write_text('{"schema": 4, "size": 1}')
    assert records.read(tmp_path / "x.json", Inner, 4, "again") == Inner(1)
    with pytest.raises(
        records.OtherSchemaError, match=r"x\.json: is of schema 4, and this version reads schema 1; again"
    ):
        records.read(tmp_path / "x.json", Inner, 1, "again")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "damaged: "),
        (b"[" * 100_000, "damaged: values are nested too deep"),
        (b"\xff", "damaged: "),
        (b"[]", "damaged: the whole is [], not an object"),
        (b"{}", "damaged: schema is missing"),
        (b'{"schema": "1", "size": 1}', "damaged: schema is '1', not a whole number"),
        (b'{"schema": 1, "size": NaN}', "damaged: NaN is no JSON"),
        (b'{"schema": 1, "size": "' + b"x" * 1000 + b'"}', "xxx..., not a whole number"),
    ],
)
def test_damaged_files_are_one_line_with_the_remedy(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        records.read(path, Inner, 1, "write it again")
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and message in said and said.endswith("; write it again") and len(said) < 400


def test_a_folder_and_a_missing_file_are_told(tmp_path):
    for path, message in ((tmp_path / "none.json", "no such file"), (tmp_path, "cannot be read, it is no file")):
        with pytest.raises(InputError, match=message):
            records.read(path, Inner, 1, "write it again")
