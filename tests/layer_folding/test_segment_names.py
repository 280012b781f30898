from layer_folding.segment_names import ACTIVE, APART, MERGED, merged_span, segment_name, whole_network


def test_a_name_says_kind_and_layers():
    names = [segment_name(kind, 3, 7) for kind in (MERGED, ACTIVE, APART)]
    assert names == ["3,7", "active 3,7", "apart 3,7"]
    assert [merged_span(name) for name in names] == [(3, 7), None, None]


def test_a_name_is_given_once():
    known: list[str] = []
    for _ in range(3):
        known.append(segment_name(MERGED, 3, 7, known))
    assert known == ["3,7", "3,7 also 1", "3,7 also 2"] and merged_span(known[1]) is None
    assert segment_name(APART, 3, 7, known) == "apart 3,7"


def test_the_whole_network_begins_at_0_and_ends_last():
    assert whole_network(["0,20", "apart 0,9", "apart 0,11", "apart 3,12", "apart 0,13 also 1"]) == "apart 0,11"
    assert whole_network(["0,3", "apart 1,4"]) is None
