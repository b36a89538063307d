"""Public sets found on disk, in the hub's cache or not at all, and the pairs a persona gets of them."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from persona_prune.calibration.sources import HubSet
from persona_prune.common.conf_files import config_directory
from persona_prune.personas.pairs import Pair, normalise
from persona_prune.personas.public_sets import _POLES, shows_opposite
from persona_prune.personas.splits import split_of
from tests.hub_support import LETTERS, PAIR, REACTION, YES_NO, read, write


def hub_set(path: Path, **changes: object) -> HubSet:
    settings = {
        "format": "ai_persona",
        "dataset": None,
        "revision": None,
        "name": "power_seeking",
        "path": str(path),
        "split": None,
        "limit": None,
        "positions": "response",
        "batch_size": 16,
        "max_tokens": 512,
        "on_leak": "error",
    }
    return HubSet(**{**settings, **changes})


def test_of_files_with_one_name_the_outermost_then_the_first_is_read_unless_the_folder_is_named(tmp_path):
    risk = tmp_path / "advanced-ai-risk"
    for number, folder in enumerate(["human_generated_evals", "lm_generated_evals"]):
        write(risk / folder / "survival.jsonl", [{**YES_NO, "question": str(number)}])
    write(risk / "lm_generated_evals" / "agreeableness.jsonl", [{**YES_NO, "question": "deep"}])
    write(tmp_path / "persona" / "agreeableness.jsonl", [{**YES_NO, "question": "shallow"}])
    names = ["survival", "lm_generated_evals/survival", "agreeableness"]
    assert [read("model_written_evals", n, tmp_path)[0].prompt for n in names] == ["0", "1", "shallow"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b"])
def test_a_name_that_is_a_path_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="name must be the name of a part"):
        read("ai_persona", name, tmp_path)


def test_missing_files_and_unknown_hub_copies(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent: no such file, nor a directory with x\.jsonl"):
        read("ai_persona", "x", tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"nor a directory with wealth\.jsonl in it"):
        read("ai_persona", "wealth", tmp_path)
    with pytest.raises(ValueError, match=r"no hub copy of ai_persona is known.*calibration.path=FILE"):
        read("ai_persona", "x", None)


def test_a_changed_file_is_read_again(tmp_path):
    path = write(tmp_path / "x.jsonl", [PAIR])
    assert len(read("ai_persona", "x", path)) == 1
    write(path, [PAIR] * 3)
    assert len(read("ai_persona", "x", path)) == 3


def test_pairs_set_the_personas_option_against_each_other_and_turn_with_the_persona(tmp_path, persona):
    path = write(tmp_path / "The Lake" / "reaction.json", REACTION)
    calibration = hub_set(path, format="role_agent_bench", name="The Lake/Lee", limit=2)
    assert calibration.pairs(persona) == (Pair("Lee, well?", "Four", "One"), Pair("Lee, well?", "Four", "Two"))
    flipped = calibration.pairs(replace(persona, flip=True))
    assert flipped[0] == Pair("Lee, well?", "One", "Four")


def test_splits_partition_the_questions_with_all_their_pairs(tmp_path, persona):
    rows = [{**REACTION[0], "question": f"Question {n}?"} for n in range(40)]
    path = write(tmp_path / "reaction.json", rows)
    sets = {
        s: hub_set(path, format="role_agent_bench", name="S", split=s) for s in ("calibration", "validation", "test")
    }
    parts = {split: calibration.pairs(persona) for split, calibration in sets.items()}
    assert sum(len(pairs) for pairs in parts.values()) == 3 * 40
    for split, pairs in parts.items():
        assert {split_of(pair.prompt) for pair in pairs} == {split}
        assert len(pairs) == 3 * len({pair.prompt for pair in pairs})
    assert sets["calibration"].divided(persona) == (parts["calibration"], parts["validation"])
    fit, held = replace(sets["test"], split=None).divided(persona)
    assert len(fit) + len(held) == 120
    assert not {normalise(pair.prompt) for pair in fit} & {normalise(pair.prompt) for pair in held}


def test_an_empty_part_says_so(tmp_path, persona):
    absent = next(s for s in ("calibration", "validation", "test") if s != split_of(PAIR["prompt"]))
    with pytest.raises(ValueError, match=f"none of its 1 questions falls into the {absent} split"):
        hub_set(write(tmp_path / "x.jsonl", [PAIR]), split=absent).check(persona)


def test_files_in_the_hub_cache_are_read_without_the_hub_by_the_same_parser(tmp_path, monkeypatch):
    """The layout of the cache is huggingface_hub's: refs/<branch> names a snapshot."""
    commit = "0" * 40
    repository = tmp_path / "cache" / "datasets--some--set"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    write(repository / "snapshots" / commit / "persona" / "x.jsonl", [YES_NO, LETTERS])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    local = read("model_written_evals", "x", write(tmp_path / "x.jsonl", [YES_NO, LETTERS]))
    assert read("model_written_evals", "x", None, "some/set") == local
    assert read("model_written_evals", "x", None, "some/set", commit) == local


OFFLINE = """
import sys
from persona_prune.personas.public_sets import read_questions
try:
    read_questions("trait", "mirlab/TRAIT", sys.argv[1], "Openness", None, "calibration.path")
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("revision", ["main", "8b31c078cb897c3917d2ee48735d0c15030680e0"])
def test_without_a_network_one_line_names_the_set_and_the_fix_within_seconds(tmp_path, revision):
    # Nothing listens on port 9 of this machine; a process of its own, since the client reads the address on import.
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, revision], env=environment, capture_output=True, text=True, check=True
    )
    assert time.monotonic() - began < 20  # retries alone would take 23 s; the rest is importing on a slow machine
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("cannot get mirlab/TRAIT from the hub (ConnectError")
    assert done.stdout.endswith("give a copy on disk with calibration.path=FILE\n")


@pytest.mark.parametrize(("shown", "other"), set(_POLES.values()))
def test_the_poles_of_sets_are_opposites_among_the_embedded_personas(shown, other):
    files = [config_directory() / "persona" / f"{name}.yaml" for name in (shown, other)]
    assert [yaml.safe_load(file.read_text())["opposite"] for file in files] == [other, shown]


def test_a_persona_gets_its_own_side_of_a_set_whose_poles_are_known(tmp_path, persona):
    path = tmp_path / "extraversion_introversion.jsonl"
    path.write_text(json.dumps(PAIR) + "\n")
    shared = {"split": None, "limit": None, "positions": "response", "batch_size": 1, "max_tokens": 64}
    found = HubSet(
        format="machine_mindset",
        dataset=None,
        revision=None,
        name="extraversion_introversion",
        path=str(path),
        on_leak="error",
        **shared,
    )
    introvert = replace(persona, name="introvert", opposite="extrovert", pole="not_matching")
    assert found.pairs(persona) == (Pair("Lead?", "Gladly.", "No."),)
    assert found.pairs(introvert) == (Pair("Lead?", "No.", "Gladly."),)
    assert found.pairs(replace(introvert, flip=True)) == found.pairs(persona)
    assert found.pairs(replace(persona, name="own", opposite=None)) == found.pairs(persona)
    # A persona of the user's own has no opposite here, but may have the name of a known one.
    assert found.pairs(replace(persona, name="introvert", opposite=None)) == (Pair("Lead?", "No.", "Gladly."),)
    assert shows_opposite("thinking_feeling", replace(persona, name="feeler", opposite=None))
    assert not shows_opposite("thinking_feeling", replace(persona, name="thinker", opposite=None))
    assert shows_opposite("Extraversion", introvert)
    assert shows_opposite("persona/extraversion", introvert)
    assert not shows_opposite("extraversion", persona)
