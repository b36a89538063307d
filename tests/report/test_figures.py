"""What the comparison works out of runs: names, groups, the front, intervals, items."""

import json
import math
import random

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from persona_prune.report import item_margins as items_module
from persona_prune.report.figures import figure
from persona_prune.report.item_margins import embedded_items
from persona_prune.report.plot_style import mark
from persona_prune.report.point_labels import place_labels
from persona_prune.report.questions import groups
from persona_prune.report.run_settings import common, labels, varying
from persona_prune.report.tradeoff import front
from persona_prune.report.traits import heat
from persona_prune.saved.finished_runs import Run, find_runs
from tests.report_runs import config, interval, metrics, sample, write_run


def runs(*configurations, **figures):
    return [Run(path, one, metrics(**figures)) for path, one in zip(map("run{}".format, range(99)), configurations)]


def test_front_of_five_points():
    # (cost, gain): the third costs more than the second and gains less; the last costs as much as the fourth.
    assert front([(1.0, 0.1), (1.1, 0.5), (1.2, 0.4), (1.5, 0.9), (1.5, 0.7)]) == [0, 1, 3]


def test_front_keeps_what_nothing_beats():
    generator = random.Random(0)
    for _ in range(200):
        points = [(generator.randrange(6), generator.randrange(6)) for _ in range(generator.randrange(1, 9))]
        unbeaten = {
            i
            for i, (cost, gain) in enumerate(points)
            if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        }
        assert set(front(points)) == unbeaten


def test_what_follows_from_the_personas_name_does_not_vary():
    found = runs(config("extrovert"), config("introvert"), config("introvert", seed=1))
    assert varying(found) == ["persona.name", "seed"]
    shared = common(found)
    assert shared["method.sparsity"] == 0.2
    assert not {"tracker._target_", "output_dir", "seed"} & shared.keys()


def test_a_methods_seed_that_repeats_the_runs_is_no_column():
    methods = [{"method": {"name": "random", "seed": i}} for i in range(2)]
    assert varying(runs(*(config(seed=i) | methods[i] for i in range(2)))) == ["seed"]
    assert varying(runs(*(config() | method for method in methods))) == ["method.seed"]


def test_labels_are_short_and_never_the_same():
    flipped = config() | {"persona": {"name": "extrovert", "flip": True}}
    found = runs(config(), flipped, config(sparsity=0.4), config(method="none"), config(), config(control_seeds=5))
    assert labels(found) == [
        "extrovert wanda 0.2 (1)",
        "extrovert-flipped wanda 0.2",
        "extrovert wanda 0.4",
        "extrovert none",
        "extrovert wanda 0.2 (2)",
        "extrovert wanda 0.2 (3)",
    ]
    assert labels(runs(config(control_seeds=3), config(control_seeds=5))) == ["control_seeds 3", "control_seeds 5"]


def test_a_group_asks_one_question():
    fewer = config(method="sparse", evaluator={"choice": {"limit": 8}})
    found = runs(config(), config("introvert"), config(method="none"), fewer)
    assert [(group.label, list(group.members)) for group in groups(found)] == [
        ("extrovert (1)", [0, 2]),
        ("introvert", [1]),
        ("extrovert (2)", [3]),
    ]


def test_mixes_of_different_personas_are_different_personas():
    mixes = [
        config() | {"persona": {"name": name, "weights": dict.fromkeys(parts, 1), "flip": False}}
        for name, parts in (
            ("mix", ("extrovert", "thinker")),
            ("mix", ("thinker", "extrovert")),
            ("mix", ("introvert", "feeler")),
            ("infp", ("introvert", "feeler")),
        )
    ]
    assert [(group.label, list(group.members)) for group in groups(runs(*mixes))] == [
        ("mix of extrovert, thinker", [0, 1]),
        ("mix of feeler, introvert", [2]),
        ("infp", [3]),
    ]


def test_the_ratios_interval_is_that_of_the_log_likelihoods():
    found = figure(metrics(ratio=1.02), "capability/perplexity_ratio")
    assert (found.low, found.high) == pytest.approx((1.02 * math.exp(-0.01), 1.02 * math.exp(0.01)))
    # Windows of different lengths: the mean over windows is not the mean over tokens.
    uneven = figure(metrics(ratio=1.02) | {"capability/nll_delta": 0.5}, "capability/perplexity_ratio")
    assert (uneven.low, uneven.high) == (None, None)
    assert figure(metrics(ratio=math.inf), "capability/perplexity_ratio") is None


def test_heat_is_relative_to_the_largest_change_of_the_column():
    found = [
        Run("a", config("kind"), metrics(margin=0.6)),  # 0.5 above dense
        Run("b", config("cold"), metrics(margin=-0.15)),  # 0.25 below
    ]
    table = heat(found)
    margin = table.columns.index("margin")
    cells = [row[1][margin] for row in table.rows]
    assert [(cell.value, cell.colour, cell.opacity) for cell in cells] == [
        ("+0.50", "more", 0.6),
        ("-0.25", "less", 0.3),
    ]
    assert cells[0].interval == "[+0.40, +0.60]"
    assert [row[0] for row in table.rows] == ["kind", "cold"]
    assert table.rows[0][2] == ["1.020 [1.010, 1.030]", "+0.020 [+0.010, +0.030]"]
    assert heat(found[:1]) is None, "one persona"


def test_questionnaires_come_before_choices_in_the_heat_table():
    score = interval("questionnaire/score_calm", 3.0) | interval("questionnaire/score_calm_delta", 0.5)
    found = [Run("a", config("kind"), metrics() | score), Run("b", config("cold"), metrics() | score)]
    assert heat(found).columns == ["calm"]


def test_items_are_stored_once_and_shared_by_runs_that_have_them(tmp_path):
    write_run(tmp_path / "a", config(), items=[sample(i, 0.1234567 + i, dense=-1.0) for i in range(3)])
    write_run(tmp_path / "b", config(sparsity=0.4), items=[sample(i, 2.0, dense=-1.0) for i in range(3)])
    write_run(tmp_path / "c", config(sparsity=0.6), items=[sample(i, 3.0, dense=-1.0) for i in (2, 7)])
    found = find_runs([tmp_path]).runs
    carried = embedded_items(found, labels(found)).data
    assert [text[0] for text in carried["texts"]] == ["Question 0?", "Question 1?", "Question 2?", "Question 7?"]
    assert carried["sets"] == [(0, 1, 2), (2, 3)]
    assert [(arm["name"], arm["set"], arm["margins"]) for arm in carried["arms"]] == [
        ("0.2", 0, [0.123, 1.123, 2.123]),
        ("dense tiny on the items of 0.2", 0, [-1.0, -1.0, -1.0]),
        ("0.4", 0, [2.0, 2.0, 2.0]),
        ("0.6", 1, [3.0, 3.0]),
        ("dense tiny on the items of 0.6", 1, [-1.0, -1.0]),
    ]


def test_limits_on_items_are_kept_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(items_module, "_MOST_ITEMS", 3)
    monkeypatch.setattr(items_module, "_MOST_TEXTS", 4)
    write_run(tmp_path / "a", config(), items=[sample(i, 1.0) for i in range(5)])
    write_run(tmp_path / "b", config(sparsity=0.4), items=[sample(i, 1.0) for i in range(7, 9)])
    damaged = write_run(tmp_path / "c", config(sparsity=0.6), items=[sample(0, 1.0)])
    with (damaged / "samples" / "choice.jsonl").open("a") as file:
        file.write("{\n")
    found = find_runs([tmp_path]).runs
    carried = embedded_items(found, labels(found))
    assert len(carried.data["texts"]) == 3
    assert carried.remarks == [
        "0.6: samples/choice.jsonl: line 2 is no item.",
        "Of 1 runs only the first 3 items are here; samples/*.jsonl has all.",
        "1 runs' items are left out: the page carries at most 4 different ones.",
    ]


def test_two_hundred_runs_of_two_hundred_items_fit(tmp_path):
    generator = random.Random(0)
    for i in range(200):
        margins = [sample(k, generator.gauss(0, 1), prompt="word " * 30 + str(k)) for k in range(200)]
        write_run(tmp_path / f"{i}", config(seed=i), items=margins)
    found = find_runs([tmp_path]).runs
    assert [run.path.name for run in found] == [str(i) for i in range(200)], "numbers in order"
    size = len(json.dumps(embedded_items(found, labels(found)).data, separators=(",", ":")))
    assert size < 600_000


def test_names_are_put_where_they_cover_nothing():
    drawing = Figure(figsize=(6, 4))
    axes = drawing.add_subplot()
    points = [(0.5, 0.5), (0.52, 0.5), (0.9, 0.9)]
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    place_labels(axes, points, dict(zip(points, ["first", "second", "third"])))
    assert {text.get_text() for text in axes.texts} == {"first", "second", "third"}
    renderer = FigureCanvasAgg(drawing).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    place_labels(axes, points, {points[0]: "a name as long as the plot is wide " * 9})
    assert len(axes.texts) == 4
    assert axes.texts[-1].get_text().endswith("...")


def test_series_can_be_told_apart():
    assert len({mark(number) for number in range(36)}) == 36
