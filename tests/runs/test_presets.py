"""Presets compose and build, for the paper's model and for the embedded one; so does every command of a run.sh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from experiments.findings import paper
from persona_prune.common.conf_files import config_directory
from persona_prune.masks.mask import Mask, pack_bits
from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.plan import build
from persona_prune.saved.mask_file import save_mask

# What a preset cannot know: where a file lies. The rest of the line only keeps this test from the network.
FILES = {
    "two_way_choice": ["calibration.path={pairs}"],
    "capability": ["evaluator.lm_eval.tasks=[persona_extrovert]"],
    "capability_local": ['evaluator.lm_eval.metadata={{local_questions: "{questions}"}}'],
    "saved_mask": ["method.path={mask}"],
    "role_play": ["calibration.path={roles}", "calibration.name=Study/Sherlock"],
}
PAPER_MODELS = {"llama2_13b", "llama3_8b", "qwen2_5_14b"}
PRESETS = sorted(path.stem for path in (config_directory() / "experiment").glob("[!_]*.yaml"))


@pytest.fixture
def files(tmp_path):
    """Twelve items of each kind, so that calibration and test parts both have some."""
    rows = {
        "pairs": [{"prompt": f"{n}?", "matching": "Yes.", "not_matching": "No."} for n in range(80)],
        "questions": [{"query": f"{n}?", "choices": ["a", "b"], "gold": 0} for n in range(12)],
        "roles": [
            {"target_role": "Sherlock", "question": f"{n}?", "multi_choices": ["A. a", "B. b"], "gt_answer": "A"}
            for n in range(12)
        ],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    mask = tmp_path / "mask.safetensors"
    save_mask(Mask({"a": pack_bits(torch.ones(1, 8, dtype=torch.bool))}, {"a": (1, 8)}, "f", {}), mask)
    return {"mask": str(mask), **{name: str(tmp_path / f"{name}.jsonl") for name in rows}}


def plan_of(preset, files, *more):
    lines = [line.format(**files) for line in FILES.get(preset, [])]
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return build(compose("config", overrides=[f"experiment={preset}", *lines, *more]))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_names_a_model_of_the_paper_and_gives_way_to_the_command_line(preset, files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    paper, small = plan_of(preset, files), plan_of(preset, files, "model=smollm2_135m", "tracker=none")
    assert paper.model.name in PAPER_MODELS
    assert small.model.name == "smollm2_135m"
    # Nothing but model and tracker changes with them.
    same = [{k: v for k, v in plan.config.items() if k not in ("model", "tracker")} for plan in (paper, small)]
    assert same[0] == same[1]
    assert "capability" in paper.evaluators


EXPERIMENTS = config_directory().parent / "experiments"
FOLDERS = sorted(
    path.parent.name for path in EXPERIMENTS.glob("*/table.py") if "common.sh" in (path.parent / "run.sh").read_text()
)


@pytest.fixture
def shell(files, tmp_path, monkeypatch):
    """A place to run scripts in, where ``python`` only writes down its arguments, and fails for $BROKEN."""
    data, fake = tmp_path / "data", tmp_path / "bin" / "python"
    for name, rows in (
        ("ai_persona/power_seeking", "pairs"),
        ("ai_persona/hallucination", "pairs"),
        ("capability/arc_easy", "questions"),
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / f"{name}.jsonl").write_text(Path(files[rows]).read_text())
    fake.parent.mkdir()
    fake.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"open({str(tmp_path / 'calls')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "broken = os.environ.get('BROKEN')\nsys.exit(bool(broken) and broken in sys.argv)\n"
    )
    fake.chmod(0o755)
    # The mask that a finished mix would have left.
    mix = tmp_path / "out" / "smollm2_135m" / "mixing" / "run"
    mix.mkdir(parents=True)
    Path(files["mask"]).rename(mix / "persona.safetensors")
    for key in ("ITEMS", "PAIRS", "POLES", "MODEL", "EXTRA", "METHODS", "TAYLOR", "SETS", "BROKEN"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PATH": f"{fake.parent}:{os.environ['PATH']}", "OUT": "out", "QUICK": "1"}

    def call(script, *arguments, **more):
        done = subprocess.run(
            [EXPERIMENTS / script, *arguments], env=environment | more, capture_output=True, text=True, check=False
        )
        calls = tmp_path / "calls"
        return done, [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    return call


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_command_of_a_folder_is_understood(folder, shell, tmp_path):
    done, calls = shell(f"{folder}/run.sh", "data")
    assert done.returncode == 0, done.stderr
    runs = [call[2:] for call in calls if call[:2] == ["-m", "persona_prune.run"]]
    assert runs
    for arguments in runs:
        check_command_line(arguments)
    assert calls[-2:] == [
        ["-m", "experiments.publish", folder, str(tmp_path / "out" / "smollm2_135m")],
        ["-m", "experiments.claims"],
    ]


def test_paths_are_whole_so_that_a_run_is_found_again_however_they_were_written(shell, tmp_path):
    found, seen = [], 0
    for data in ("data", "./data/", str(tmp_path / "data")):
        _, calls = shell("two_way_choice/run.sh", data)
        found.append(calls[seen:])
        seen = len(calls)
    assert found[0] == found[1] == found[2] != []
    refused, calls = shell("sparsity/run.sh", OUT="some place")
    assert (refused.returncode, len(calls)) == (2, seen)
    assert "choose a path without spaces" in refused.stderr


def test_all_folders_run_and_failures_are_listed_at_the_end(shell):
    done, calls = shell("run_all.sh", "data", "--quick", BROKEN="experiment=role_questions")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "failed: role_play"
    published = [call[2] for call in calls if call[1] == "experiments.publish"]
    assert sorted(published) == FOLDERS == sorted(paper())
    assert calls[-1] == ["-m", "experiments.claims"]


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["data", "--slow"]])
def test_a_wrong_call_is_refused_with_one_line(arguments, shell):
    done, calls = shell("run_all.sh", *arguments)
    assert (done.returncode, calls) == (2, [])
    assert done.stderr.startswith("usage: experiments/run_all.sh DATA [--quick]")
    assert done.stderr.count("\n") == 1
