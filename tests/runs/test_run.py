"""The whole thing, as a user starts it, on the tiny model."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from persona_prune.models.devices import peak_memory_mb, reset_peak_memory
from persona_prune.models.loaded import maskable_linears
from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.experiment import run_experiment
from persona_prune.saved.persona_file import load_persona_mask
from tests.conftest import tiny_model
from tests.reference.offline_wandb import read_run

FAST = [
    "model=tiny_random",
    "evaluator=[choice,capability]",
    "evaluator.choice.limit=4",
    "calibration.limit=4",
    "evaluator.capability.max_text_tokens=64",
    "method=contrastive_wanda",
    "control_seeds=2",
]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "persona_prune.run", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, cache) -> Path:
    directory = tmp_path_factory.mktemp("sweep")
    done = run("--multirun", "persona=extrovert,introvert", "method.sparsity=0.1,0.3", "study=s", *FAST, cwd=directory)
    assert done.returncode == 0, done.stderr
    return directory / "outputs" / "s"


def runs(sweep: Path) -> list[Path]:
    return sorted(path for path in sweep.iterdir() if path.is_dir())


def test_a_sweep_leaves_complete_runs(sweep):
    assert len(runs(sweep)) == 4
    linears = maskable_linears(tiny_model().model)
    for directory in runs(sweep):
        assert json.loads((directory / "status.json").read_text())["status"] == "done"
        metrics = json.loads((directory / "metrics.json").read_text())
        assert all(isinstance(value, float) and math.isfinite(value) for value in metrics.values())
        expected = {f"choice/{m}" for m in ("accuracy", "accuracy_norm", "accuracy_content", "margin")}
        expected |= {f"dense/{key}" for key in expected} | {f"{key}_low" for key in expected}
        expected |= {f"capability/{m}" for m in ("perplexity", "perplexity_ratio", "neutral_drift")}
        expected |= {"mask/sparsity", "mask/bytes", "memory/peak_mb", "choice/accuracy_p"}
        for control in ("random", "generic", "opposite"):
            expected |= {f"{control}/choice/margin", f"choice/margin_vs_{control}", f"choice/margin_vs_{control}_p"}
        expected |= {f"time/{stage}_s" for stage in ("load", "signature", "mask", "evaluate", "total")}
        assert expected <= set(metrics)
        config = yaml.safe_load((directory / ".hydra" / "config.yaml").read_text())
        mask = load_persona_mask(directory / "persona.safetensors", linears)
        assert mask.sparsity == pytest.approx(config["method"]["sparsity"], abs=0.02)
        assert metrics["mask/bytes"] == (directory / "persona.safetensors").stat().st_size
        samples = [json.loads(line) for line in (directory / "samples" / "choice.jsonl").open()]
        assert len(samples) == 4
        mean = sum(sample["values"]["margin"] for sample in samples) / 4
        assert metrics["choice/margin"] == pytest.approx(mean)
        others = [sum(s[f"{arm}_values"]["margin"] for s in samples) / 4 for arm in ("dense", "opposite", "random")]
        assert metrics["dense/choice/margin"] == pytest.approx(others[0])
        assert metrics["choice/margin_vs_opposite"] == pytest.approx(mean - others[1])
        assert metrics["random/choice/margin"] == pytest.approx(others[2])
        assert "<svg" in (directory / "report.html").read_text()
        assert "INFO" in (directory / "run.log").read_text()
        assert not list(directory.rglob("*.partial"))


def test_wandb_runs_can_be_read_back(sweep):
    found = [read_run(directory) for directory in runs(sweep)]
    assert len({entry["name"] for entry in found}) == 4
    assert {entry["group"] for entry in found} == {"s"}
    assert {entry["job_type"] for entry in found} == {"contrastive_wanda"}
    for directory, entry in zip(runs(sweep), found, strict=True):
        metrics = json.loads((directory / "metrics.json").read_text())
        assert {key: entry["summary"][key] for key in metrics} == pytest.approx(metrics)
        assert entry["config"]["method"]["sparsity"] in (0.1, 0.3)
        assert entry["config"]["persona"]["name"] in entry["tags"]


def test_opposite_poles_mirror_the_dense_model(sweep):
    dense = {}
    for directory in runs(sweep):
        metrics = json.loads((directory / "metrics.json").read_text())
        dense.setdefault("introvert" in directory.name, metrics["dense/choice/margin"])
    assert dense[True] == pytest.approx(-dense[False], abs=1e-5)


def test_the_opposites_mask_is_what_the_opposite_persona_applies(sweep):
    """On the same items, turned round: introvert's control `opposite` is extrovert's own mask."""
    found = {}
    for directory in runs(sweep):
        config = yaml.safe_load((directory / ".hydra" / "config.yaml").read_text())
        metrics = json.loads((directory / "metrics.json").read_text())
        found[config["persona"]["name"], config["method"]["sparsity"]] = metrics
    for sparsity in (0.1, 0.3):
        own, other = found["extrovert", sparsity], found["introvert", sparsity]
        assert own["choice/margin"] == pytest.approx(-other["opposite/choice/margin"], abs=1e-5)
        assert own["generic/choice/margin"] == pytest.approx(-other["generic/choice/margin"], abs=1e-5)


def test_running_twice_gives_the_same_figures_and_nothing_is_lost(tmp_path, cache):
    common = [*FAST, "tracker=none", "output_dir=run"]
    figures = []
    for _ in range(2):
        done = run(*common, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        figures.append({key: value for key, value in metrics.items() if not key.startswith(("time/", "memory/"))})
        assert "report: run/report.html" in done.stderr
    assert figures[0] == figures[1]
    assert not (tmp_path / "run" / "previous-1").exists()
    assert run(*common, "method=none", cwd=tmp_path).returncode == 0
    assert (tmp_path / "run" / "previous-1" / "metrics.json").exists()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["choice/margin"] == metrics["dense/choice/margin"]
    assert metrics["mask/sparsity"] == 0
    assert not (tmp_path / "run" / "persona.safetensors").exists()


def test_a_saved_mask_gives_the_figures_it_was_saved_with_and_fits_no_other_model(sweep, tmp_path):
    first = runs(sweep)[0]
    saved = [*FAST, "tracker=none", "method=saved", f"method.path={first / 'persona.safetensors'}"]
    done = run(*saved, "output_dir=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before, after = (json.loads((d / "metrics.json").read_text()) for d in (first, tmp_path / "again"))
    for key in ("choice/margin", "capability/perplexity", "capability/neutral_drift", "mask/sparsity"):
        assert after[key] == before[key]
    done = run(*saved, "model.weight_seed=1", "output_dir=other", cwd=tmp_path)
    assert done.returncode == 1
    assert "the mask was made for the model with fingerprint" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_files_that_are_no_runs_are_never_touched(tmp_path, cache):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "mine").write_text("keep me")
    done = run(*FAST, "tracker=none", "output_dir=.", cwd=tmp_path)
    assert done.returncode == 1
    assert "holds wandb, but no run's: choose another directory" in done.stderr.splitlines()[-1]
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["wandb", "wandb/mine"]


def test_bad_input_exits_with_2_and_leaves_nothing(tmp_path):
    done = run("persona=extravert", "seed=-1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: persona=extravert: no such option; did you mean extrovert?\n"
    assert not list(tmp_path.iterdir())


def test_a_failing_run_says_so_in_one_line(tmp_path, cache):
    done = run(*FAST, "tracker=none", "calibration.max_tokens=10", "output_dir=run", cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "raise max_tokens (now 10)" in done.stderr.splitlines()[-1]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "failed"
    assert "raise max_tokens" in status["error"]
    assert "Traceback" in (tmp_path / "run" / "run.log").read_text()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_contrastive_taylor_moves_the_pairs_it_was_calibrated_on(tmp_path, cache, pairs, pair_file):
    """On the very pairs it saw, the margin must rise, and fall for the flipped persona; controls are its masks."""
    settings = {"neutral_prompts": 4, "neutral_per_round": 2, "generic_tokens": 300, "rounds": 2, "sparsity": 0.03}
    taylor = ["method=contrastive_taylor", *(f"method.{key}={value}" for key, value in settings.items())]
    common = ["model=tiny_random", "tracker=none", "evaluator=choice", "controls=[opposite,generic]", *taylor]
    half = tmp_path / "half.jsonl"
    rows = [json.loads(line) for line in pair_file.read_text().splitlines()]
    # Other prompts, the same answers: the leakage check compares prompts.
    half.write_text("".join(json.dumps(row | {"prompt": row["prompt"] + " Well?"}) + "\n" for row in rows))
    files = ["calibration=pairs", f"calibration.path={half}", f"evaluator.choice.path={pair_file}"]
    found = []
    for flip, verbose in (("false", ["-v"]), ("true", [])):
        done = run(*verbose, *common, *files, f"persona.flip={flip}", f"output_dir=flip-{flip}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("objective of pairs" in done.stderr) == bool(verbose)
        metrics = json.loads((tmp_path / f"flip-{flip}" / "metrics.json").read_text())
        assert metrics["choice/margin"] > metrics["dense/choice/margin"] + 0.05
        assert metrics["choice/margin"] > metrics["opposite/choice/margin"]
        assert 0 < metrics["mask/sparsity"] <= 0.03
        assert metrics["mask/bytes"] == (tmp_path / f"flip-{flip}" / "persona.safetensors").stat().st_size
        found.append((metrics, done.stderr))
    assert found[0][0]["choice/margin"] == pytest.approx(-found[1][0]["opposite/choice/margin"], abs=1e-5)
    assert found[0][0]["mask/sparsity"] == pytest.approx(found[1][0]["opposite/sparsity"])
    assert found[0][0]["generic/sparsity"] > 0
    assert "mask from the cache" in found[1][1]
    saved = [
        "method=saved",
        f"method.path={tmp_path / 'flip-true' / 'persona.safetensors'}",
        "controls=[random,generic]",
    ]
    done = run(
        "model=tiny_random", "tracker=none", *files, *saved, "evaluator=choice", "persona.flip=true", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "not bit for bit" not in done.stderr
    assert "control generic: a saved mask can't be built again" in done.stderr
    (again,) = [json.loads(path.read_text()) for path in (tmp_path / "outputs").rglob("metrics.json")]
    assert again["choice/margin"] == found[1][0]["choice/margin"]
    assert "random/choice/margin" in again


def test_an_interrupt_while_a_finished_run_is_being_uploaded_takes_nothing_away(tmp_path, cache, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("persona_prune.runs.tracking.base._Untracked.finish", interrupted)
    fast = [argument for argument in FAST if not argument.startswith("method")]
    ((overrides, plan),) = check_command_line([*fast, "method=none", "tracker=none"]).jobs
    with pytest.raises(KeyboardInterrupt):
        run_experiment(plan, overrides, skip_done=True)
    assert json.loads((plan.directory / "status.json").read_text())["status"] == "done"
    with pytest.raises(KeyboardInterrupt):
        run_experiment(plan, overrides, skip_done=False)
    assert not list(plan.directory.glob("previous-*")), "the run that was repeated"
    assert run_experiment(plan, overrides, skip_done=True).skipped


def test_a_gpu_that_nothing_has_used_yet_is_no_error(monkeypatch):
    """PyTorch refuses to reset the statistics of a device before CUDA is initialised, which loading a model does."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    reset_peak_memory()
    assert peak_memory_mb() > 0


def test_a_mix_is_measured_part_by_part_and_a_prompt_on_top(tmp_path, cache):
    mixed = ["persona=mix", "persona.weights={extrovert: 0.75, introvert: 0.25}", "with_prompt=true", "controls=[]"]
    done = run(*FAST, *mixed, "evaluator.choice.limit=null", "tracker=none", "output_dir=mix", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "mix" / "metrics.json").read_text())
    assert metrics["choice/margin"] == pytest.approx(
        (metrics["choice/margin_extrovert"] + metrics["choice/margin_introvert"]) / 2
    )
    assert metrics["choice/margin_extrovert"] == pytest.approx(-metrics["choice/margin_introvert"], abs=1e-5)
    assert 0.15 < metrics["mask/sparsity"] <= 0.2
    assert metrics["with_prompt/choice/margin"] != metrics["choice/margin"]
    assert "with_prompt/choice/margin_vs_mask_p" in metrics
    for key in ("choice/margin", "choice/matching_log_prob", "capability/neutral_drift"):
        prompted = metrics[f"with_prompt/{key}"]
        if f"with_prompt/{key}_delta" in metrics:
            change = metrics[f"with_prompt/{key}_delta"]
            assert change == pytest.approx(prompted - metrics[f"dense/{key}"], abs=1e-5), key
    assert 0 < metrics["with_prompt/choice/margin_p"] <= 1


def test_baselines_run_by_the_same_protocol_and_a_sweep_goes_on_where_it_was(tmp_path, cache):
    fast = [argument for argument in FAST if not argument.startswith("method")]
    common = [*fast, "calibration.limit=8", "tracker=none", "output_dir=runs"]
    done = run("--multirun", "method=prompt,steering", *common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run("--multirun", "method=prompt,rag,steering,lora", *common, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done already, skipped") == 2
    assert "Warning" not in done.stderr
    found = {}
    for path in (tmp_path / "runs").rglob("metrics.json"):
        metrics = json.loads(path.read_text())
        found[yaml.safe_load((path.parent / ".hydra" / "config.yaml").read_text())["method"]["name"]] = metrics
        assert {"choice/margin_delta", "choice/accuracy_p", "capability/perplexity_ratio"} <= set(metrics)
        assert metrics["mask/sparsity"] == 0
        assert metrics["mask/bytes"] > 0
        assert not (path.parent / "persona.safetensors").exists()
        assert not any(key.startswith("random/") for key in metrics)
    assert found.keys() == {"prompt", "rag", "steering", "lora"}
    # What speaks through the prompt leaves plain text alone; what changes the model doesn't.
    assert found["prompt"]["capability/perplexity_ratio"] == found["rag"]["capability/perplexity_ratio"] == 1.0
    assert found["steering"]["capability/perplexity_ratio"] != 1.0
    assert len({metrics["choice/margin"] for metrics in found.values()}) == 4


def test_a_run_ends_with_what_the_model_says(tmp_path):
    """Also what scripts outside rely on: names of figures and of what stands in the samples."""
    speech = ["evaluator=[speech,capability]", "evaluator.speech.limit=3", "evaluator.speech.max_new_tokens=6"]
    small = ["model=tiny_random", "calibration.limit=4", "evaluator.capability.max_text_tokens=64", "tracker=none"]
    done = run(*small, *speech, "method=contrastive_wanda", "controls=[opposite]", "output_dir=here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "here" / "metrics.json").read_text())
    for figure in ("expressed", "persona", "coherent", "on_topic", "echo"):
        assert {f"speech/{figure}", f"dense/speech/{figure}"} <= metrics.keys()
    assert {"speech/above_dense", "speech/persona_vs_opposite", "speech/judge_auc"} <= metrics.keys()
    rows = [json.loads(line) for line in (tmp_path / "here" / "samples" / "speech.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all({"prompt", "answer", "dense_answer", "opposite_answer"} <= row.keys() for row in rows)
    said = done.stdout + done.stderr
    assert all(f"  > {row['prompt']}" in said for row in rows)
    page = (tmp_path / "here" / "report.html").read_text()
    assert page.index("What it says now") < page.index("Figures")
