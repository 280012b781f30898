"""What the pages quote is what the code says: reasons in own-model.md, errors in troubleshooting.md."""

import re

import pytest

from tests.docs.pages import ROOT, prose
from tests.docs.sources import failed_checks, filled_in, quotes, texts

OWN_MODEL, TROUBLESHOOTING = ROOT / "docs/own-model.md", ROOT / "docs/troubleshooting.md"
REASONS = tuple(
    f"fold/{name}.py"
    for name in (
        "algebra/arithmetic",
        "algebra/layers",
        "algebra/operations",
        "graph/kept",
        "regions/cutting",
        "regions/finding",
        "regions/walk",
    )
)
TEXTS = tuple(texts())


def test_own_model_has_the_reasons_of_fold_and_no_others():
    known = {reason for file in REASONS for reason in filled_in(file) if " " in reason}
    listed = set(re.findall(r"^\| `([^`]+)` \| ", prose(OWN_MODEL).partition("## What refuses")[2], re.M))
    assert listed == known


def messages() -> list[str]:
    found = re.findall(r"^- \*\*`([^`]+)`\*\*", prose(TROUBLESHOOTING), re.M)
    return [" ".join(message.split()) for message in found]


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_is_one_that_the_code_has(message):
    assert any(quotes(message, text) for text in TEXTS)


@pytest.mark.parametrize("error", sorted(error for error in failed_checks() if re.search(r"\w", error)))
def test_every_failed_check_is_explained(error):
    """Bad input explains itself; why a check failed, one line cannot say."""
    assert any(quotes(message, error) for message in messages()), f"docs/troubleshooting.md does not quote {error!r}"
