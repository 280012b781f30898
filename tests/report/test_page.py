import json
import re
import shutil
from dataclasses import replace

import pytest

from layer_folding import fold_results, run_config
from layer_folding.errors import InputError
from layer_folding.fit_choices import Choice
from layer_folding.importance_tables import Importance, write_importance
from layer_folding.plans import Loss, LossBound, write_plan
from layer_folding.report import charts, page, run_folder
from layer_folding.report.figures import SHOWN
from layer_folding.stages import STEPS
from tests.layer_folding.test_plans import PLAN
from tests.report.conftest import Page, bench_json, config_json, fold_json, write

SECTIONS = [
    "headline",
    "folded",
    "accuracy",
    "gates",
    "latency",
    "layers",
    "device",
    "commands",
    "absent",
]
HOSTILE = "<script>alert(1)</script>\"'&$x^{"


def rendered(folder) -> Page:
    return Page(page.render(run_folder.run(folder)))


def prediction(**changes):
    merge = {
        "layers": ["a", "b"], "count": 2, "segments": {"apart": "apart 0,2", "merged": "0,2"},
        "planned": 0.4, "error": 0.01, "again": None, "ci95": None,
    }  # fmt: skip
    measured = {
        "speedup": 2.0, "ci95": [1.9, 2.1], "verdict": "faster", "baseline": "a", "candidate": "b", "batch": 1,
    }  # fmt: skip
    return {
        "plan": "plan.json", "speedup": 1.5, "ci95": [1.4, 1.6], "obstacle": None, "measured": measured,
        "miss": -0.25, "merges": [merge], **changes,
    }  # fmt: skip


def test_its_figures_are_those_of_the_files(folder):
    found = rendered(folder).figures
    files = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("fold", "bench")}
    for where, value, _ in found:
        at = files
        for step in where.split("/"):
            at = at[int(step) if isinstance(at, list) else step]
        assert float(value) == at, where
    shown = {where: text for where, _, text in found}
    assert shown["bench/comparison/speedup"] == f"{files['bench']['comparison']['speedup']:.3f}×"
    assert shown["fold/accuracy/hoisted"] == "80.12 %" and shown["fold/cost/folded/depth"] == "3"
    assert len(found) > 40


def test_every_section_is_there_and_nothing_comes_from_elsewhere(folder):
    html = page.render(run_folder.run(folder))
    found = Page(html)
    assert found.sections() == SECTIONS
    for tag, given in found.tags:
        assert tag not in ("script", "iframe", "img", "object", "base")
        for name in ("src", "href", "xlink:href", "srcset"):
            assert given.get(name, "#").startswith(("#", "data:,")), (tag, given)
    assert "url(http" not in html and "@import" not in html
    assert len(html) < 2e6


@pytest.mark.parametrize(
    ("folded", "says"),
    [(1.0, "Folded is faster than original"), (4.0, "Folded is slower than original"), (2.0, "equally fast")],
)
def test_the_verdict_comes_first_whatever_it_is(tmp_path, folded, says):
    text = rendered(write(tmp_path / "run", bench=bench_json(folded=folded, spread=0.05))).text
    assert says in text[: text.index("What was folded")]
    assert ("keep the original" in text) == (folded == 4.0)


def test_the_same_files_give_the_same_page(folder):
    assert page.render(run_folder.run(folder)) == page.render(run_folder.run(folder))


def test_names_are_text_whatever_is_in_them(tmp_path):
    names = [f"{HOSTILE}{part}" for part in ("1", "2", "3")]
    bench = bench_json()
    bench["device"]["name"] = HOSTILE
    for model in bench["models"]:
        model["name"] = f"{model['name']} {HOSTILE}"
    for side in ("baseline", "candidate"):
        bench["comparison"][side] += f" {HOSTILE}"
    bench["prediction"] = prediction(obstacle=HOSTILE)
    fold = fold_json(names)
    fold["model"]["spec"] = fold["skipped"][0]["reason"] = HOSTILE
    run = write(tmp_path / "run <b>", names, bench=bench, fold=fold)
    html = page.render(run_folder.run(run))
    assert "<script" not in html and "<b>" not in html
    found = Page(html)
    assert not any(name.startswith("on") for _, given in found.tags for name in given)
    assert found.text.count(HOSTILE) > 10  # in the drawing, its titles, charts, tables


@pytest.mark.parametrize(
    ("missing", "sections", "command"),
    [
        ("fold.json", ["folded", "accuracy", "layers"], "make fold"),
        ("metrics.csv", ["gates"], "make prefold"),
        ("bench.json", ["latency", "device"], "make export trt-bench"),
        ("config.json", [], "make pretrain"),
    ],
)
def test_a_section_without_content_is_left_out_and_the_command_that_makes_it_is_said(
    folder, missing, sections, command
):
    (folder / missing).unlink()
    html = page.render(run_folder.run(folder))
    assert f"<code>{command} RUN={folder}</code> makes it." in html[html.index('id="absent"') :]
    assert [name for name in SECTIONS if name not in Page(html).sections()] == sections


def test_without_an_onnx_file_the_drawing_is_missed_and_without_a_measurement_the_verdict(folder):
    (folder / "folded.onnx").unlink()
    (folder / "bench.json").unlink()
    html = page.render(run_folder.run(folder))
    assert (
        f"<code>make export RUN={folder}</code> makes it" in html.partition('id="folded"')[2].partition("</section>")[0]
    )
    assert f"<code>make export trt-bench RUN={folder}</code>" in html.partition("</header>")[0]


def test_a_run_that_has_only_begun_has_a_page_too(folder):
    for name in ("fold.json", "bench.json", "metrics.csv", "original.onnx", "folded.onnx"):
        (folder / name).unlink()
    assert "Not folded yet" in rendered(folder).text


@pytest.mark.parametrize("name", ["config.json", "fold.json", "bench.json", "metrics.csv", "original.onnx"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schema": %d}', b"[1]", b"stage,epoch\nprefold,x\n", b"\xff\xfe\x00"]
)
def test_a_damaged_file_is_named(folder, name, content):
    schema = {"config.json": run_config.SCHEMA, "fold.json": fold_results.SCHEMA}.get(name, 1)
    (folder / name).write_bytes(content.replace(b"%d", str(schema).encode()))
    with pytest.raises(InputError, match=rf"{name}: .*; .*(again|delete)"):
        page.render(run_folder.run(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"cost": {}},
        {"folded": [{}]},
        {"skipped": "all"},
        {"accuracy": {"folded": "1"}},
        {"model": None},
        {"agreement": {"same": 1}},
    ],
)
def test_a_fold_json_that_lacks_something_is_named(tmp_path, change):
    with pytest.raises(InputError, match=r"fold\.json: damaged"):
        run_folder.run(write(tmp_path / "run", fold={**fold_json(), **change}))


@pytest.mark.parametrize(
    ("name", "schema", "command"),
    [("fold.json", 2, "fold"), ("bench.json", 1, "trt-bench"), ("config.json", 2, "pretrain")],
)
def test_a_file_of_another_schema_is_said_where_it_is_missed(folder, name, schema, command):
    (folder / name).write_text(json.dumps({"schema": 7, "all else": "unknown"}))
    html = page.render(run_folder.run(folder))
    for part in [
        html[html.index('id="absent"') :],
        *([html.partition("</header>")[0]] if name == "bench.json" else []),
    ]:
        assert f"{name} is of schema 7, and this version reads schema {schema}: <code>make " in part
        assert f"{command} RUN={folder}</code> makes it again" in part
    assert ("No verdict" in html) == (name == "bench.json")


def test_half_a_metrics_file_is_shown_and_said(folder):
    whole = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(whole[: whole.index("0.953") + 3])  # reads 0.9, which is not what was meant
    run = run_folder.run(folder)
    assert [epoch.gates for epoch in run.epochs] == [{"block.relu": 0.125}]
    assert "metrics.csv is cut off, and its last row is left out" in rendered(folder).text


def test_fitted_layers_are_listed_and_stand_for_those_of_the_original(tmp_path):
    fit = {"choice": "block.relu=3x1", "layers": ["block.conv1", "block.conv2"], "name": "block.one", "error": 0.3125}
    folded = {**fold_json()["folded"][0], "layers": ["block.one"], "activations": []}
    config = config_json()
    config["stages"]["prefold"]["settings"] = {"choices": [fit["choice"]], "images": 512, "seed": 0, "force": False}
    fold = {**fold_json(), "folded": [folded], "fitted": [fit]}
    run = run_folder.run(write(tmp_path / "run", fold=fold, config=config))
    (tmp_path / "run" / "metrics.csv").unlink()
    text = page.render(run_folder.run(tmp_path / "run"))
    assert re.search(r">block.conv1 \+ block.conv2</td><td [^>]*>block.relu</td><td [^>]*>3x1</td>", text)
    assert '<span class="fitted"></span> fitted, which is approximate; the error stands below' in text
    assert text.count(' fitted" width=') == 2 * 3  # in both drawings: two layers before, one after
    assert '<data value="0.3125" data-from="fold/fitted/0/error">0.312</data>' in text
    assert 'aria-label="how far each fitted layer is from what it replaces"' in text
    assert "<title>block.relu=3x1: 0.312</title>" in text
    assert "How the gates opened" not in text
    (merge,) = run.fold.of_original
    assert (merge.layers, merge.activations) == (("block.conv1", "block.conv2"), ("block.relu",))


def test_activations_that_were_put_back_are_explained_where_they_are_drawn(tmp_path):
    kept = {"block.relu": "merging conv1 + conv2 would cost 2.4x the MACs"}
    folded = {**fold_json()["folded"][0], "activations": []}
    html = page.render(run_folder.run(write(tmp_path / "run", fold={**fold_json(), "folded": [folded], "kept": kept})))
    part = html.partition('id="folded"')[2].partition("</section>")[0]
    assert '<tspan class="kept">relu</tspan>' in part and "relu</span> put back although its gate opened" in part
    assert ">Put back</h3>" in part and kept["block.relu"] in part
    gates = html.partition('id="gates"')[2].partition("</section>")[0]
    assert "The activations of 1 of these stay: they were put back." in gates
    assert ">0.95  stays<" in gates and "  open<" not in gates


def test_what_a_plan_chose_from_is_drawn(tmp_path):
    folder = write(tmp_path / "run")
    measured = replace(PLAN, frontier=(replace(PLAN.frontier[0], divergence=0.1, agreement=0.9), PLAN.frontier[1]))
    fits = {Choice(("block.relu",), 3): 0.25, Choice(("block.relu",), 1): 0.5, Choice(("other",), "none"): 0.0}
    write_plan(folder / "plan.json", measured)
    write_importance(folder / "importance.csv", Importance({}, "KL divergence", fits=fits))
    html = page.render(run_folder.run(folder))
    part = html.partition('id="plan"')[2].partition("</section>")[0]
    assert "for tensorrt on Orin, batch 8, fp16. The upper picture shows plans that were carried out" in part
    assert "1.2 ms, loses 0.3" in part and "block.relu, shape 3: 0.25" in part and "in KL divergence." in part
    bound = LossBound(1.5, "points", Loss(0.5, 0.25), 64, 64)
    tried = (replace(PLAN.frontier[0], loss=Loss(0.5, 0.25)), PLAN.frontier[1])
    write_plan(folder / "plan.json", replace(PLAN, budget_ms=None, max_loss=bound, frontier=tried))
    html = page.render(run_folder.run(folder))
    assert "what each network loses, in points, with its interval. The plan may lose at most 1.5." in html
    assert ">measured loss</text>" in html
    write_plan(folder / "plan.json", PLAN)
    (folder / "importance.csv").unlink()
    html = page.render(run_folder.run(folder))
    assert "The upper picture" not in html and "What each fitted layer loses" not in html
    assert f"Predicted against measured: <code>make trt-bench RUN={folder}</code>" in html


@pytest.mark.parametrize("values", [[0.9, 0.9, 0.9], [0.9995, 0.2, 1.0]])
def test_the_axis_of_accuracy_fits_the_data(values):
    chart = charts.accuracies(dict(zip(STEPS, values, strict=False)))
    ticks = [float(text) for text in re.findall(r">([\d.]+)</text>", chart)]
    assert max(ticks) <= 100 and min(ticks) >= 100 * min(values) - 30 * max(max(values) - min(values), 0.005)


def test_noise_is_said_beside_the_headline(tmp_path):
    html = page.render(run_folder.run(write(tmp_path / "run", bench=bench_json(spread=0.1))))
    assert "warning: folded: samples vary by" in html.partition("</header>")[0]


def test_a_network_in_which_nothing_folds(tmp_path):
    text = rendered(write(tmp_path / "run", fold={**fold_json(), "folded": []})).text
    assert "no two layers could become one" in text and "flatten is not linear" in text
    assert "make fold" not in text


@pytest.mark.parametrize(
    "change",
    [
        {"profile": {"note": "slow"}},
        {"profile": {"note": "slow", "modules": {"stem": None}}},
        {"engine": {"strongly_typed": True}},
        {"engine": {"strongly_typed": True, "engine_bytes": 1, "layers_by_precision": "fp16"}},
        {"network": {"depth": "deep"}},
        {"batch": 3},
    ],
)
def test_a_bench_json_that_lacks_something_is_named(tmp_path, change):
    bench = bench_json()
    bench["models"][1] |= change
    with pytest.raises(InputError, match=r"bench\.json: damaged"):
        run_folder.run(write(tmp_path / "run", bench=bench))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        run_folder.run(tmp_path)
    with pytest.raises(InputError, match="no run folder"):
        run_folder.run(tmp_path / "nowhere")


def test_predicted_against_measured(tmp_path):
    text = rendered(write(tmp_path / "run", bench=bench_json(prediction=prediction()))).text
    assert "predicted 1.500× [1.400×, 1.600×], and 2.000× [1.900×, 2.100×] was measured: -25.0 % off, more than" in text
    assert "+40.0 %" in text
    other = prediction(obstacle="it is for batch 8")
    assert (
        "cannot be compared with the measurement: it is for batch 8"
        in rendered(write(tmp_path / "run", bench=bench_json(prediction=other))).text
    )


def test_time_by_merge_where_there_is_a_profile(tmp_path):
    bench = bench_json()
    for model, modules in zip(
        bench["models"],
        ({"stem": 0.5, "block.conv1 + block.relu": 0.4, "block.conv2": 0.3}, {"stem": 0.5, "block.conv1_conv2": 0.6}),
        strict=True,
    ):
        model["profile"] = {"note": "slow", "runs": 50, "layers": [], "modules": modules}
    run = run_folder.run(write(tmp_path / "run", bench=bench))
    (merge, *ms), (rest, *others) = page.times(run)
    assert (merge, rest) == ("block.conv1_conv2", "everything else")
    assert ms == pytest.approx([0.7, 0.6]) and others == pytest.approx([0.5, 0.5])
    assert "Upper bar original, lower bar folded: slow" in rendered(run.folder).text


def test_the_precision_that_an_engine_was_found_to_run(tmp_path):
    bench = bench_json(runtime="tensorrt")
    engine = {
        "engine": "x.plan", "engine_bytes": 2_500_000, "from_cache": True, "build_s": 0.0, "strongly_typed": True,
        "layers_by_precision": {"fp16": 7, "fp32": 1},
    }  # fmt: skip
    bench["models"][1] |= {"precision": "fp16", "engine": engine}
    text = rendered(write(tmp_path / "run", bench=bench)).text
    assert "7 fp16, 1 fp32" in text and "2.5 MB, strongly typed" in text


def test_without_a_network_it_is_still_whole(folder):
    shutil.copy(folder / "folded.onnx", folder / "original.onnx")  # names that fold.json does not know
    assert rendered(folder).sections() == SECTIONS


def test_numbers_are_shown_as_people_write_them():
    shown = {
        how: SHOWN[how](value) for how, value in {"count": 12345, "share": -0.051, "ms": 0.0819, "error": 2e-15}.items()
    }
    assert shown == {"count": "12.3 k", "share": "-5.1 %", "ms": "0.0819", "error": "2.0e-15"}


@pytest.mark.slow
def test_a_long_run_of_a_deep_network_stays_small(tmp_path):
    folder = write(tmp_path / "run", bench=bench_json(samples=20_000))
    names = [f"layer{number // 9}.{number % 9}.relu" for number in range(54)]
    rows = [f"prefold,{epoch},0.9,20," + ",".join(["0.5"] * len(names)) for epoch in range(1, 201)]
    (folder / "metrics.csv").write_text("\n".join([f"stage,epoch,accuracy,depth,{','.join(names)}", *rows, ""]))
    html = page.render(run_folder.run(folder))
    assert len(html) < 2e6 and "Of 200 epochs 27 are shown" in html
