"""Models that overflow or are damaged: nothing of them is taken for a figure, nor kept for a model that is sound."""

import copy
import json
import math

import pytest
import torch

from persona_prune.calibration import signature_cache
from persona_prune.calibration.signatures import Signature, Statistics
from persona_prune.common.cache import cache_path, store_json
from persona_prune.common.json_numbers import dump_figures, dump_item, load_figures, load_item
from persona_prune.evaluators.base import Evaluator
from persona_prune.models.finiteness import not_finite
from persona_prune.models.loaded import LoadedModel, fingerprint
from persona_prune.report.doubts import doubts, not_computed
from persona_prune.report.verdict import verdict
from persona_prune.runs.arms import measure
from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.directory import RunDirectory, finished
from persona_prune.runs.experiment import run_experiment
from persona_prune.saved.finished_runs import read_run, samples
from tests.evaluators.every_evaluator import ask, every_evaluator

FAST = [
    "evaluator=[choice,capability]",
    "evaluator.choice.limit=4",
    "evaluator.capability.max_text_tokens=64",
    "tracker=none",
    "method=none",
]


def strict(text: str) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def damaged(model) -> None:
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.nan


def overflowing(model) -> None:
    """Give activations that float32 can hold and float16 can't."""
    model.model.layers[0].mlp.up_proj.weight.data.mul_(1e4)
    model.model.layers[0].mlp.down_proj.weight.data.mul_(1e4)


@pytest.fixture
def checkpoint(tiny, tmp_path):
    def made(edit) -> list[str]:
        model = copy.deepcopy(tiny.model)
        edit(model)
        model.save_pretrained(tmp_path / edit.__name__)
        tiny.tokenizer.save_pretrained(tmp_path / edit.__name__)
        return ["model=smollm2_135m_hub", "model.name=own", f"model.path={tmp_path / edit.__name__}"]

    return made


@pytest.mark.parametrize(
    ("edit", "dtype", "where", "cure"),
    [
        (
            damaged,
            "float32",
            "model.layers.1.mlp.up_proj (its weight is no number) in float32",
            "its weights are damaged",
        ),
        (overflowing, "float16", "model.layers.0.mlp.down_proj in float16", "set model.dtype=float32"),
    ],
)
def test_a_run_says_where_it_overflows(checkpoint, in_tmp, caplog, edit, dtype, where, cure):
    # transformers 8886: NaN and overflow that no line of a report mentions.
    lines = [*checkpoint(edit), f"model.dtype={dtype}", *FAST]
    ((overrides, plan),) = check_command_line(lines).jobs
    with caplog.at_level("WARNING"):
        outcome = run_experiment(plan, overrides, skip_done=False)
    assert outcome.error == (
        "choice/margin and capability/perplexity and dense/choice/margin and dense/capability/perplexity can't be "
        f"computed. The dense model gives what is no number, first in {where}: {cure}."
    )
    assert "No numbers: " in caplog.text
    content = strict((plan.directory / "metrics.json").read_text())
    assert content["choice/margin"] is content["choice/accuracy"] is content["capability/perplexity"] is None
    for line in (plan.directory / "samples" / "choice.jsonl").read_text().splitlines():
        assert strict(line)["values"]["margin"] == "NaN"
    assert where in (plan.directory / "report.html").read_text()
    assert json.loads((plan.directory / "status.json").read_text())["error"] == outcome.error
    with pytest.raises(ValueError, match="can't be computed"):
        read_run(plan.directory)


def test_an_overflow_is_computed_in_float32(checkpoint, in_tmp):
    ((overrides, plan),) = check_command_line([*checkpoint(overflowing), "model.dtype=float32", *FAST]).jobs
    outcome = run_experiment(plan, overrides, skip_done=False)
    assert outcome.error is None
    assert math.isfinite(outcome.metrics["choice/margin"])


def test_a_damaged_copy_does_not_poison_the_cache(checkpoint, in_tmp):
    # lm-eval 2346: the first result that is kept is given to everybody after.
    kept = set(cache_path("dense", "").parent.glob("*"))
    ((overrides, plan),) = check_command_line([*checkpoint(damaged), "model.dtype=float32", *FAST]).jobs
    assert run_experiment(plan, overrides, skip_done=False).error is not None
    assert set(cache_path("dense", "").parent.glob("*")) == kept
    ((overrides, plan),) = check_command_line(["model=tiny_random", "model.dtype=float32", *FAST]).jobs
    outcome = run_experiment(plan, overrides, skip_done=False)
    assert outcome.error is None
    assert math.isfinite(outcome.metrics["choice/margin"])


def test_a_mask_is_not_made_from_what_is_no_number(checkpoint, in_tmp):
    lines = [*checkpoint(damaged), "model.dtype=float32", *FAST[:-1], "method=wanda", "calibration.limit=4"]
    ((overrides, plan),) = check_command_line(lines).jobs
    error = run_experiment(plan, overrides, skip_done=False).error
    assert error is not None
    assert "model.dtype=float32" in error
    assert not list(cache_path("signatures", "").parent.glob("*.partial"))


def test_nothing_that_is_no_number_is_kept(tmp_path, caplog):
    for content in ([math.nan], {"a": {"b": math.inf}}, [[-math.inf]]):
        store_json(tmp_path / "x.json", content)
        assert not (tmp_path / "x.json").exists()
    assert "not kept in the cache" in caplog.text
    store_json(tmp_path / "x.json", [1.0, None])
    assert json.loads((tmp_path / "x.json").read_text()) == [1.0, None]


def test_signatures_that_are_no_numbers_are_not_kept(tmp_path):
    def signature(value: float) -> Signature:
        vector = torch.tensor([1.0, value])
        return Signature({"a": Statistics(*(vector.clone() for _ in range(5)))}, {"a": "a"}, "f", "d", "all", 1, 1)

    signature_cache.save(tmp_path / "broken", [signature(1.0), signature(math.inf)])
    assert signature_cache.load(tmp_path / "broken") is None
    signature_cache.save(tmp_path / "sound", [signature(1.0)])
    assert signature_cache.load(tmp_path / "sound") is not None


def test_null_is_read_back_as_no_number(tmp_path):
    figures = {"a": 1.5, "b": math.nan, "c": math.inf, "d": 3}
    text = dump_figures(figures)
    assert strict(text) == {"a": 1.5, "b": None, "c": None, "d": 3}
    back = load_figures(text)
    assert math.isnan(back["b"])
    assert math.isnan(back["c"])
    assert math.isnan(load_figures('{"old": NaN}')["old"])
    run = RunDirectory(tmp_path)
    run.status("done", "hash")
    run.write_json("metrics.json", figures)
    run.write_samples("choice", [{"id": 0, "log_prob": [math.nan], "values": {"margin": -math.inf, "other": None}}])
    assert math.isnan(finished(tmp_path, "hash")["b"])
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(
        "model: {name: m}\npersona: {name: p}\nmethod: {name: x}\nevaluator: {}\n"
    )
    found = read_run(tmp_path)
    assert math.isnan(found.metrics["b"])
    (item,) = samples(found, "choice")
    assert item["values"] == {"margin": -math.inf, "other": None}


def test_items_keep_what_they_say():
    item = {"id": 1, "prompt": "NaN", "values": {"x": math.nan, "y": 1.0}, "dense_values": {"x": math.inf}, "z": None}
    back = load_item(dump_item(item))
    assert math.isnan(back["values"]["x"])
    assert back["dense_values"] == {"x": math.inf}
    assert (back["prompt"], back["z"], back["values"]["y"]) == ("NaN", None, 1.0)


@pytest.mark.parametrize("name", ["choice", "multiple_choice", "questionnaire", "capability"])
def test_every_evaluator_of_likelihoods_says_so(tiny, tmp_path, name):
    evaluator: Evaluator = every_evaluator(tmp_path, batch_size=4)[name]
    weight = tiny.model.model.layers[0].mlp.up_proj.weight.data
    kept = weight[0, 0].item()
    dense = ask(evaluator, tiny)
    weight[0, 0] = torch.nan
    try:
        broken = ask(evaluator, tiny, dense)
        assert not_finite(tiny, ["Hello"]).startswith("model.layers.0.mlp.up_proj (its weight is no number)")
    finally:
        weight[0, 0] = kept
    assert not_finite(tiny, ["Hello"]) is None
    metrics = {f"{name}/{key}": value for key, value in {**broken.means(), **broken.metrics}.items()}
    assert f"No numbers: {name}/" in " ".join(doubts(metrics))
    assert not_computed(metrics)
    assert not any(key.startswith("accuracy") and math.isfinite(v) for key, v in broken.means().items())


def test_no_verdict_on_no_numbers():
    nothing = {f"choice/margin_delta{end}": math.nan for end in ("", "_low", "_high")}
    metrics = {"choice/margin": math.nan, "capability/perplexity_ratio": math.nan, **nothing}
    assert [sentence[:12] for sentence in verdict(metrics, [])] == ["No numbers: "]


def test_what_picks_the_likeliest_token_is_asked_too(tiny, in_tmp):
    lines = ["model=tiny_random", "evaluator=speech", "evaluator.speech.limit=1", "tracker=none", "method=none"]
    ((_, plan),) = check_command_line([*lines, "evaluator.speech.max_new_tokens=2"]).jobs
    broken = copy.deepcopy(tiny.model)
    damaged(broken)
    loaded = LoadedModel(name="own", model=broken, tokenizer=tiny.tokenizer, fingerprint=fingerprint(broken))
    arms = measure(plan, loaded, RunDirectory(in_tmp), None, None)
    assert arms.broken["dense model"].startswith("model.layers.1.mlp.up_proj")
