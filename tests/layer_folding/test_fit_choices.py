"""What a fit replaces, as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layer_folding.errors import InputError
from layer_folding.fit_choices import Choice, is_choice, parse_choice

names = st.from_regex(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*", fullmatch=True)
sizes = st.integers(1, 99)
shapes = sizes | st.lists(sizes, min_size=2, max_size=3).map(tuple) | st.sampled_from(["merged", "depthwise", "none"])


@given(st.builds(Choice, st.lists(names, min_size=1, max_size=4, unique=True).map(tuple), shapes))
def test_what_is_written_is_read(choice):
    assert parse_choice(str(choice)) == choice and is_choice(str(choice))


def test_lines_of_a_plan_that_are_no_fits():
    assert not is_choice("layer1.0.relu") and not is_choice("+layer1.0.conv2=layer1.0.relu")


@pytest.mark.parametrize(
    "text", ["", "a", "=3", "a=", "a,=3", "a,a=3", "a=0", "a=3x", "a=-1", "a=3.5", "a=x3", "a=big"]
)
def test_what_is_no_choice_is_one_line(text):
    with pytest.raises(InputError) as caught:
        parse_choice(text)
    message = str(caught.value)
    assert message.startswith(repr(text)) and "give " in message and "\n" not in message
