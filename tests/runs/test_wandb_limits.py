"""What W&B would refuse after the weights are loaded, or write into one run: known before, and kept apart."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from pydantic import ValidationError

from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.instantiating import ConfigError
from persona_prune.runs.tracking.wandb_limits import check_environment, environment, shortened, wanted_mode
from tests.reference.offline_wandb import read_finished
from tests.runs.test_tracking import METRICS, directory, info, tracker  # noqa: F401

SMALL = ["model=tiny_random", "method=none", "evaluator=choice", "evaluator.choice.limit=2"]


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """W&B reads its variables once a process."""
    yield
    monkeypatch.undo()
    wandb.teardown()


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_command_line([*SMALL, *arguments])
    assert all("\n" not in problem for problem in raised.value.problems)
    return raised.value.problems


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("dryrun", "offline"),
        ("DryRun", "offline"),
        ("Offline", "offline"),
        (" offline ", "offline"),
        ("OFFLINE", "offline"),
        ("run", "online"),
        ("Online", "online"),
        ("Disabled", "disabled"),
        ("", None),
        (" ", None),
    ],
)
def test_modes_are_wandbs_own_in_any_case(monkeypatch, value, expected):
    """wandb 2048: dryrun is what offline was called; on main it went online, and any other case was a traceback."""
    monkeypatch.setenv("WANDB_MODE", value)
    assert wanted_mode() == expected
    with environment(one_of_several=False):
        wandb.Settings().update_from_env_vars({"WANDB_MODE": os.environ["WANDB_MODE"]} if expected else {})
    assert os.environ["WANDB_MODE"] == value


def test_dryrun_is_offline_even_where_somebody_is_logged_in(directory, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("persona_prune.runs.tracking.wandb_run.unreachable", lambda: pytest.fail("W&B was asked"))
    monkeypatch.setenv("WANDB_MODE", "DryRun")
    tracker().start(info(directory)).finish(METRICS, [])
    assert read_finished(directory)["exit_code"] == 0


@pytest.mark.parametrize("value", ["off", "shared", "true", "offlin"])
def test_an_unknown_mode_is_found_by_the_check(in_tmp, monkeypatch, value):
    monkeypatch.setenv("WANDB_MODE", value)
    expected = f"tracker: WANDB_MODE={value}: must be online, offline (or dryrun) or disabled"
    assert problems() == [expected]
    assert problems("tracker.mode=offline") == [expected]
    check_command_line([*SMALL, "tracker.mode=disabled"])
    check_command_line([*SMALL, "tracker=none"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tracker.project=a/b"], "tracker.project=a/b: W&B takes no / in the name of a project"),
        (["tracker.project='a#b?'"], "W&B takes no # ? in the name of a project"),
        ([f"tracker.project={'p' * 129}"], "at most 128 characters"),
        (["tracker.project=''"], "tracker.project=: String should have at least 1 character"),
        (["tracker.entity=team/project"], "the project is named by tracker.project"),
        ([f"tracker.tags=[{'t' * 65}]"], "at most 64 characters"),
        (["tracker.tags=['']"], "tracker.tags.0=: String should have at least 1 character"),
        ([f"study={'s' * 129}"], "W&B takes groups of at most 128 characters"),
    ],
)
def test_what_wandb_refuses_is_found_by_the_check(in_tmp, arguments, expected):
    found = problems(*arguments)
    assert len(found) == 1
    assert expected in found[0]
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WANDB_PROJECT", "a/b", "tracker: WANDB_PROJECT=a/b: Invalid project name 'a/b'"),
        ("WANDB_TAGS", f"ok,{'x' * 70}", "is 70 characters. Tags must be between 1 and 64 characters"),
        ("WANDB_RUN_ID", "a/b", "tracker: WANDB_RUN_ID=a/b: Run ID cannot contain the characters"),
        ("WANDB_CONSOLE", "loud", "tracker: WANDB_CONSOLE=loud: must be 'auto', 'off'"),
        ("WANDB_BASE_URL", "nowhere", "tracker: WANDB_BASE_URL=nowhere: "),
    ],
)
def test_an_environment_that_wandb_refuses_is_found_by_the_check(in_tmp, monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    found = problems()
    assert len(found) == 1
    assert expected in found[0]


def test_what_is_allowed_is_what_wandb_allows(in_tmp, monkeypatch):
    """The limits are W&B's of today: where they move, this says so."""
    for name, longest in (("project", 128), ("run_tags", 64)):
        for length in (longest, longest + 1):
            value = ["x" * length] if name == "run_tags" else "x" * length
            field = "tags" if name == "run_tags" else name
            for build in (lambda n=name, v=value: wandb.Settings(**{n: v}), lambda f=field, v=value: tracker(**{f: v})):
                if length == longest:
                    build()
                else:
                    with pytest.raises((ValidationError, wandb.Error)):
                        build()
    for character in "/\\#?%: .,;@'\"&()äé":
        name = f"a{character}b"
        try:
            wandb.Settings(project=name)
        except wandb.Error:
            with pytest.raises(ValidationError):
                tracker(project=name)
        else:
            tracker(project=name)
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    check_environment()


def test_names_that_the_run_makes_itself_are_never_too_long(directory):  # noqa: F811
    long = dataclasses.replace(
        info(directory), name="tiny-" + "x" * 300 + "-seed1", tags=["m" * 300, "ok"], job_type="j" * 300
    )
    other = dataclasses.replace(long, name="tiny-" + "x" * 300 + "-seed2")
    tracker().start(long).finish(METRICS, [])
    found = read_finished(directory)
    assert len(found["name"]) <= 128
    assert found["name"].endswith("-abcdef")
    assert max(map(len, found["tags"])) <= 64
    assert found["tags"][1] == "ok"
    assert len(found["job_type"]) <= 128
    (artifact,) = [a for a in found["artifacts"].values() if a["type"] == "persona"]
    assert len(artifact["name"]) <= 128
    assert shortened(long.name, 121) != shortened(other.name, 121)
    assert shortened("short", 5) == "short"


def test_every_job_of_a_sweep_has_an_id_of_its_own_whatever_the_environment_says(tmp_path, cache):
    """wandb 5119, 3682: with ``WANDB_RUN_ID`` set, as in an agent, both jobs wrote one run."""
    command = [sys.executable, "-m", "persona_prune.run"]
    given = {"WANDB_RUN_ID": "mine", "WANDB_RESUME": "allow", "WANDB_MODE": "Offline", "WANDB_NAME": "one"}
    environment = {**os.environ, **given, "PYTHONPATH": str(Path(__file__).parents[2])}
    for arguments in (["--multirun", "seed=1,2"], ["seed=3"]):
        done = subprocess.run(
            [*command, *arguments, *SMALL], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    found = {}
    for path in (tmp_path / "outputs" / "default").glob("*/metrics.json"):
        config = (path.parent / ".hydra" / "config.yaml").read_text()
        found[int(config.split("\nseed: ")[1].split("\n")[0])] = read_finished(path.parent)
    ids = {seed: run["id"] for seed, run in found.items()}
    assert ids[1].startswith("mine-")
    assert ids[2].startswith("mine-")
    assert ids[1] != ids[2]
    assert ids[3] == "mine", "of a single run it is what the user wants"
    assert len({run["name"] for run in found.values()}) == 3


def test_where_the_cache_can_not_be_written_wandbs_logs_go_elsewhere(monkeypatch, tmp_path):
    """Its core would print them instead, a dozen lines a run."""
    monkeypatch.delenv("WANDB_CACHE_DIR", raising=False)
    monkeypatch.setattr("persona_prune.runs.tracking.wandb_limits.user_cache_path", lambda _: tmp_path / "no" / "wandb")
    with environment(one_of_several=False):
        assert "WANDB_CACHE_DIR" not in os.environ
    monkeypatch.setattr("os.access", lambda *_: False)
    with environment(one_of_several=False):
        assert "wandb-cache-" in os.environ["WANDB_CACHE_DIR"]
    assert "WANDB_CACHE_DIR" not in os.environ
