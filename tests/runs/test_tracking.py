"""What W&B is told, read back from its offline files; no model is needed for that."""

import base64
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from experiments.figures import load_samples
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.runs.tracking.base import NoTracker, RunInfo
from persona_prune.runs.tracking.figures import best, is_detail, item_table
from persona_prune.runs.tracking.wandb_tracker import WandbTracker
from persona_prune.saved.mask_file import save_mask
from tests.reference.offline_wandb import read_finished

METRICS = {
    "choice/margin": 0.25,
    "choice/margin_low": 0.125,
    "choice/margin_p": 0.5,
    "choice/margin_vs_random": 0.75,
    "choice/yes_rate": 0.5,
    "dense/choice/margin": -0.5,
    "random/choice/margin": -0.5,
    "capability/perplexity_ratio": 1.5,
    "with_prompt/choice/accuracy": 0.5,
    "mask/sparsity": 0.25,
    "mask/bytes": 96.0,
    "time/evaluate_s": 2.0,
    "memory/peak_mb": 100.0,
}
ROWS = [
    {"id": 0, "prompt": "Tea?", "log_prob": [-1.5, -2.0], "values": {"margin": 0.5}, "dense_values": {"margin": None}},
    {"id": 1, "prompt": "Kaffee, süß?", "log_prob": [], "values": {"margin": 0.0}, "dense_values": None},
]
CONFIG = {"method": {"name": "wanda", "sparsity": 0.25}, "persona": {"name": "extrovert"}, "seed": 42}


def tracker(**settings: object) -> WandbTracker:
    defaults = {"project": "p", "entity": None, "mode": "auto", "tags": ["mine", "wanda"]}
    return WandbTracker(**{**defaults, "artifacts": True, "finish_timeout": 60, **settings})


def info(directory: Path) -> RunInfo:
    tags = ["tiny", "extrovert", "wanda"]
    return RunInfo(
        "tiny-extrovert-wanda-0.25-seed42", "s", "wanda", tags, CONFIG, "abcdef012345", directory, one_of_several=False
    )


def a_mask() -> Mask:
    keep = torch.tensor([[True, False], [True, True]])
    return Mask({"layer": pack_bits(keep)}, {"layer": (2, 2)}, "model-1", {"method": "wanda", "persona": "extrovert"})


@pytest.fixture
def directory(tmp_path, monkeypatch, cache) -> Path:
    """A run directory as it is when everything has been measured."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = tmp_path / "run-1a2b3c"
    (path / "samples").mkdir(parents=True)
    (path / "samples" / "choice.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS))
    (path / "samples" / "empty.jsonl").write_text("")
    (path / "report.html").write_text("<html><body>plots</body></html>")
    save_mask(a_mask(), path / "persona.safetensors")
    return path


@pytest.fixture
def signature(tmp_path) -> Path:
    path = tmp_path / "signatures" / "0123456789abcdef01234567.safetensors"
    path.parent.mkdir()
    manifest = {"leader": {"layer": "layer"}, "model_fingerprint": "model-1", "data_hash": "d", "tokens": [3, 4]}
    save_file({"0/layer/mean": torch.ones(2)}, path, metadata={"manifest": json.dumps(manifest)})
    return path


@pytest.fixture
def logged(directory, signature):
    tracker().start(info(directory)).finish(METRICS, [signature])
    return read_finished(directory)


def md5(path: Path) -> str:
    return base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()


def test_a_run_says_what_it_is(logged):
    assert logged["name"] == "tiny-extrovert-wanda-0.25-seed42-abcdef"
    assert (logged["group"], logged["job_type"], logged["project"]) == ("s", "wanda", "p")
    assert logged["tags"] == ["tiny", "extrovert", "wanda", "mine"]
    assert {key: logged["config"][key] for key in CONFIG} == CONFIG
    assert logged["config"]["run"]["config_hash"] == "abcdef012345"
    assert logged["exit_code"] == 0


def test_figures_are_plain_numbers_in_the_summary_and_one_row_for_charts(logged):
    assert {key: logged["summary"][key] for key in METRICS} == METRICS
    assert {key: logged["logged"][key] for key in METRICS} == METRICS
    assert logged["summary"]["status"] == "done"
    assert "error" not in logged["summary"]


def test_every_figure_says_which_way_is_better(logged):
    assert logged["best"] == {
        "choice/margin": "max",
        "choice/margin_low": "max",
        "choice/margin_vs_random": "max",
        "with_prompt/choice/accuracy": "max",
        "capability/perplexity_ratio": "min",
        "mask/bytes": "min",
        "time/evaluate_s": "min",
        "memory/peak_mb": "min",
    }
    assert logged["hidden"] == {"choice/margin_low", "choice/margin_p"}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("choice/accuracy_norm_delta", "max"),
        ("choice/matching_log_prob", "max"),
        ("choice/moved_away", "min"),
        ("choice/accuracy_p", None),
        ("choice/margin_vs_opposite_p", None),
        ("choice/shortest", None),
        ("capability/perplexity", "min"),
        ("capability/nll_delta_high", "min"),
        ("capability/neutral_drift", "min"),
        ("capability/neutral_log_prob", "max"),
        ("speech/degenerate", "min"),
        ("speech/tokens", None),
        ("lm_eval/hellaswag/acc_norm", "max"),
        ("lm_eval/wikitext/word_perplexity", "min"),
        ("questionnaire/extraversion", None),
        ("opposite/choice/margin", None),
        ("mask/sparsity", None),
        ("mask/build_s", "min"),
    ],
)
def test_direction_of(metric, expected):
    assert best(metric, ["dense", "opposite"]) == expected


def test_only_bounds_and_p_values_have_no_chart():
    assert [is_detail(m) for m in ("a/margin_low", "a/margin_high", "a/margin_p", "a/margin", "a/top")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_table_has_a_row_for_every_item(logged):
    assert logged["tables"] == {
        "samples/choice": {
            "columns": ["id", "prompt", "log_prob", "value/margin", "dense/margin"],
            "data": [["0", "Tea?", "[-1.5, -2.0]", 0.5, None], ["1", "Kaffee, süß?", "[]", 0.0, None]],
        }
    }


def test_columns_of_several_types_become_text():
    columns, data = item_table([{"id": "a", "answer": 3}, {"id": 2, "answer": "B"}, {"id": 3, "tokens": 1}])
    assert columns == ["id", "answer", "tokens"]
    assert data == [["a", "3", None], ["2", "B", None], ["3", None, 1]]


def test_the_page_is_logged_as_it_is(logged, directory):
    (html,) = directory.rglob("report_*.html")
    assert html.read_text() == (directory / "report.html").read_text()
    assert logged["logged"]["report/sha256"] == hashlib.sha256(html.read_bytes()).hexdigest()


def test_the_run_uses_the_signature_and_makes_the_persona(logged, directory, signature):
    ours = {name: a for name, a in logged["artifacts"].items() if a["type"] in ("signature", "persona")}
    used, made = ours["signature-0123456789abcdef01234567"], ours["tiny-extrovert-wanda-0.25-seed42"]
    assert len(ours) == 2
    assert (used["type"], used["used"]) == ("signature", True)
    assert (made["type"], made["used"], set(made["aliases"])) == ("persona", False, {"latest", "abcdef"})
    persona = directory / "persona.safetensors"
    # The persona file is not copied; the signature is, as a cache may be emptied before the run is pushed.
    assert made["files"] == {persona.name: (md5(persona), persona.stat().st_size, persona)}
    digest, size, copy = used["files"][signature.name]
    assert (digest, size) == (md5(signature), signature.stat().st_size)
    assert copy.read_bytes() == signature.read_bytes()
    assert copy.is_relative_to(directory)
    assert made["metadata"]["model_fingerprint"] == used["metadata"]["model_fingerprint"] == "model-1"
    assert made["metadata"]["choice/margin"] == 0.25
    assert "shapes" not in made["metadata"]
    assert not (directory.parent / "home" / ".local").exists(), "no copies in the user's home"


def test_the_same_files_are_the_same_versions_in_every_run(directory, signature, tmp_path):
    found = []
    for name in ("one", "two"):
        other = tmp_path / name
        other.mkdir()
        shutil.copy(directory / "persona.safetensors", other)
        tracker().start(info(other)).finish(METRICS, [signature])
        found.append({name: a["digest"] for name, a in read_finished(other)["artifacts"].items()})
    assert len(found[0]) == 2
    assert found[0] == found[1]


def test_a_saved_mask_is_used_under_the_name_its_run_gave_it(directory, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    tracker().start(info(other)).finish(METRICS, [directory / "persona.safetensors"])
    (used,) = read_finished(other)["artifacts"].values()
    assert (used["name"], used["type"], used["used"]) == ("run", "persona", True)


def test_artifacts_can_be_left_out(directory, signature):
    tracker(artifacts=False).start(info(directory)).finish(METRICS, [signature])
    assert {a["type"] for a in read_finished(directory)["artifacts"].values()} == {"run_table"}


def test_a_failed_run_says_why(directory):
    tracker().start(info(directory)).fail("sparsity is out of range")
    found = read_finished(directory)
    assert found["exit_code"] == 1
    assert found["summary"]["status"] == "failed"
    assert found["summary"]["error"] == "sparsity is out of range"


def test_wandbs_own_failure_is_a_warning(directory, caplog):
    run = tracker().start(info(directory))
    (directory / "samples" / "choice.jsonl").write_text("{broken")
    run.finish(METRICS, [])
    assert "W&B: the run could not be logged completely" in caplog.text
    # What was logged before is kept: the run is closed all the same.
    assert read_finished(directory)["exit_code"] is not None


def test_a_line_separator_in_a_text_is_no_end_of_an_item(directory):
    row = {**ROWS[0], "prompt": "Well\u0085 what\u2028now?"}
    (directory / "samples" / "choice.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    tracker().start(info(directory)).finish(METRICS, [])
    table = read_finished(directory)["tables"]["samples/choice"]
    assert len(table["data"]) == 1
    assert len(load_samples(directory, "choice").samples) == 1


def test_nothing_is_printed_and_nothing_is_left_for_others(directory, signature, capfd):
    before = dict(os.environ)
    tracker().start(info(directory)).finish(METRICS, [signature])
    out, err = capfd.readouterr()
    assert "wandb:" not in out + err
    assert dict(os.environ) == before


def test_disabled_and_none_leave_no_files(directory, signature):
    before = sorted(directory.rglob("*"))
    for quiet in (tracker(mode="disabled"), NoTracker()):
        quiet.start(info(directory)).finish(METRICS, [signature])
        quiet.start(info(directory)).fail("no reason")
    assert sorted(directory.rglob("*")) == before


def test_without_a_network_auto_goes_on_and_online_refuses_at_once(directory, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(OSError, match=r"^tracker\.mode=online: W&B at http://127\.0\.0\.1:9 can't be reached"):
        tracker(mode="online").start(info(directory))
    tracker().start(info(directory)).finish(METRICS, [])
    assert "can't be reached" in caplog.text
    assert "going on offline" in caplog.text
    assert read_finished(directory)["summary"]["choice/margin"] == 0.25


def test_impossible_settings_are_refused():
    with pytest.raises(ValidationError, match="finish_timeout"):
        tracker(finish_timeout=0)
