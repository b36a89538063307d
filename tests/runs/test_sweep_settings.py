"""What a sweep asks for: its settings, its checks, its launchers and sweepers."""

import math
import re

import pytest

from persona_prune.common.conf_files import config_directory
from persona_prune.runs.command_line import check_command_line
from persona_prune.runs.dry_run import preview
from persona_prune.runs.instantiating import ConfigError
from persona_prune.runs.sweep_settings import SweepSettings


def settings(**changes) -> SweepSettings:
    given = {"fail_fast": False, "dry_run": False, "objective": "choice/margin", "max_perplexity_ratio": 1.05}
    return SweepSettings(**{**given, **changes})


def test_what_a_search_maximises_puts_every_job_within_the_bound_above_every_one_beyond():
    def value(margin: float, ratio: float) -> float:
        return settings().value({"choice/margin": margin, "capability/perplexity_ratio": ratio})

    assert value(-3.0, 1.05) == -3.0
    assert value(9.0, 1.051) < value(-30.0, 1.0)
    assert value(9.0, 1.05 * math.e) == pytest.approx(-1001.0)
    assert value(0.0, math.inf) < value(0.0, 1e30) < value(0.0, 2.0)
    assert settings(max_perplexity_ratio=None).value({"choice/margin": 0.25}) == 0.25
    assert settings().value({"choice/margin": 0.25}) is None
    assert settings(objective="choice/accuracy").value({}) is None


def test_what_a_sweep_needs_is_checked_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["--multirun", "evaluator=[choice,capability]", "method=wanda"]
    checked = check_command_line([*base, "seed=1,2", "method.sparsity=0.1,0.2,0.3"])
    assert checked.complete
    assert not checked.parallel
    assert [(p.seed, p.method.sparsity) for _, p in checked.jobs] == [(s, x) for s in (1, 2) for x in (0.1, 0.2, 0.3)]
    for key, value in (("fail_fast", "2"), ("dry_run", "perhaps"), ("objective", "margin"), ("fail_fats", "true")):
        with pytest.raises(ConfigError, match=rf"sweep\.{key}"):
            check_command_line([*base, f"sweep.{key}={value}"])
    with pytest.raises(ConfigError, match="hydra/launcher"):
        check_command_line([*base, "hydra/launcher=joblob"])


def test_a_search_is_no_list_of_jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jobs = check_command_line(["--multirun", "method=wanda", "method.sparsity=0.02,0.4"]).jobs
    assert preview(jobs, complete=True)[0].startswith("2 jobs, 0 of them done already")
    assert preview(jobs, complete=False)[0].startswith("2 corners of the space that would be searched")


def test_how_a_sweep_goes_about_it_is_no_part_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain, fast = (
        check_command_line(["method=none", *more]).jobs[0][1]
        for more in ([], ["sweep.fail_fast=true", "sweep.max_perplexity_ratio=null"])
    )
    assert plain.config_hash == fast.config_hash
    assert "sweep" not in plain.config


@pytest.mark.parametrize("option", sorted(config_directory().glob("hydra/*/*.yaml")), ids=lambda path: path.stem)
def test_every_launcher_and_sweeper_composes_or_says_what_to_install(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        checked = check_command_line(["--multirun", f"hydra/{option.parent.name}={option.stem}", "method=none"])
    except ConfigError as error:
        (problem,) = error.problems
        assert re.search(r"hydra_\w+ is not installed: pip install .*\[(joblib|ray|slurm|optuna)\]", problem)
    else:
        assert checked.parallel == (option.parent.name == "launcher")
        assert checked.complete == (option.parent.name == "launcher")
