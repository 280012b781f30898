import json
import re
from dataclasses import replace

from layer_folding import stats
from layer_folding.report import run_folder, runs_frontier
from tests.report.conftest import Page, bench_json, config_json, write


def index(folder, **runs) -> str:
    """The index of runs of these names, with these bench.json."""
    return runs_frontier.render(
        [run_folder.run(write(folder / name, bench=bench)) for name, bench in runs.items()], folder
    )


def point(run, accuracy, median, depth):
    latency = replace(stats.summary([1.0]), median=median, ci95=(median, median))
    return runs_frontier.Point(run, "folded", "here", depth, accuracy, latency, None, "")


def test_unbeaten_is_what_nothing_beats_in_all_three():
    points = [
        point("accurate", 0.9, 2.0, 20),
        point("fast", 0.8, 1.0, 20),
        point("shallow", 0.8, 2.0, 10),
        point("slower than fast", 0.8, 1.5, 20),
        point("unknown", None, 0.1, 1),
    ]
    assert [one.run for one in runs_frontier.best(points)] == ["accurate", "fast", "shallow"]


def test_those_that_are_alike_do_not_beat_each_other():
    assert len(runs_frontier.best([point("a", 0.9, 1.0, 5), point("b", 0.9, 1.0, 5)])) == 2


def test_each_dot_says_its_run(tmp_path):
    html = index(tmp_path, first=bench_json(), second=bench_json(folded=0.5))
    titles = re.findall(r"<title>(.*?)</title>", html[html.index("<svg") :])
    said = r"second, folded: 96\.42 %, 0\.\d+ ms \[0\.\d+, 0\.\d+\], depth 3"
    assert any(re.fullmatch(said, title) for title in titles)
    assert len([title for title in titles if title.startswith("first, ")]) == 4  # two networks, by latency and by depth


def test_only_what_was_measured_alike_is_compared(tmp_path):
    other = bench_json()
    other["device"]["name"] = "a board"
    found = Page(index(tmp_path, first=bench_json(), second=other, third=bench_json(folded=0.5)))
    assert [given["class"] for tag, given in found.tags if tag == "section"] == ["group", "group"]
    assert (
        "ONNX Runtime on EPYC, batch 1, fp32" in found.text and "ONNX Runtime on a board, batch 1, fp32" in found.text
    )


def test_accuracies_on_other_data_are_not_compared(tmp_path):
    other = write(tmp_path / "other")
    config = config_json()
    config["stages"]["pretrain"]["settings"]["data"] = "/somewhere/cifar10"
    (other / "config.json").write_text(json.dumps(config))
    bare = write(tmp_path / "bare")
    (bare / "config.json").unlink()
    runs = [run_folder.run(folder) for folder in (write(tmp_path / "one"), other, bare)]
    found = Page(runs_frontier.render(runs, tmp_path))
    assert [given["class"] for tag, given in found.tags if tag == "section"] == ["group"] * 3
    assert all(f"{data}: ONNX Runtime" in found.text for data in ("digits", "cifar10", "unknown data"))


def test_runs_that_are_alike_keep_their_names_apart(tmp_path):
    html = index(tmp_path, **{f"run-{number:02}": bench_json(folded=1 + number / 1000) for number in range(12)})
    labels = re.findall(r">(run-\d\d)</text>", html)
    assert 0 < len(labels) < 12  # one over another, nobody could read them; the pointer still finds all
    assert len(set(re.findall(r"<title>(run-\d\d), folded", html))) == 12


def test_links_lead_to_the_pages_of_the_runs(tmp_path):
    links = [given["href"] for tag, given in Page(index(tmp_path, a=bench_json(), b=bench_json())).tags if tag == "a"]
    assert set(links) == {"a/report.html", "b/report.html"}


def test_runs_without_a_measurement_are_named(tmp_path):
    for name in ("measured", "waiting"):
        write(tmp_path / name)
    (tmp_path / "waiting" / "bench.json").unlink()
    runs = [run_folder.run(tmp_path / name) for name in ("measured", "waiting")]
    assert "Not measured yet" in runs_frontier.render(runs, tmp_path)
    assert "None of these runs" in runs_frontier.render(runs[1:], tmp_path)


def test_names_of_runs_are_text(tmp_path):
    bench = bench_json()
    bench["device"]["name"] = "<script>alert(1)</script>"
    html = index(tmp_path, **{"<img src=x onerror=alert(1)>": bench, "b": bench_json()})
    assert "<img" not in html and "<script" not in html
