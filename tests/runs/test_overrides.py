"""Command lines as Hydra's users type them; where its grammar wants quotes, what to type."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from persona_prune import run
from persona_prune.common.conf_files import config_directory
from persona_prune.runs import completion
from persona_prune.runs.command_line import Checked, check_command_line
from persona_prune.runs.instantiating import ConfigError
from persona_prune.runs.overrides import arguments_of, read_options, to_type

SMALL = ["model=tiny_random", "method=none", "evaluator=choice", "evaluator.choice.limit=2", "tracker=none"]
ROOT = Path(__file__).parents[2]


def checked(*arguments: str) -> Checked:
    found = check_command_line([*SMALL, *arguments])
    assert found is not None
    return found


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_command_line([*SMALL, *arguments])
    assert all("\n" not in problem for problem in raised.value.problems)
    return raised.value.problems


def hydras_jobs(found: Checked) -> list[list[str]]:
    """What Hydra makes of the command line that it is given."""
    options = read_options(found.arguments)
    assert options.multirun
    overrides = OverridesParser.create().parse_overrides(options.overrides)
    ((batch),) = BasicSweeper.split_arguments([o for o in overrides if not o.is_hydra_override()], None)
    return [list(job) for job in batch]


@pytest.fixture
def own_conf(in_tmp):
    """A directory of one's own, with a name that Hydra's grammar has other uses for."""
    directory = in_tmp / "mine, and (yours)" / "conf's"
    (directory / "persona").mkdir(parents=True)
    (directory / "experiment").mkdir()
    hermit = (config_directory() / "persona" / "introvert.yaml").read_text().replace("name: introvert", "name: hermit")
    (directory / "persona" / "hermit.yaml").write_text(hermit)
    (directory / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nstudy: 2024\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      seed: shuffle(range(1,9))\n      persona: hermit,introvert\n"
    )
    return str(directory)


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("option", ["--multirun", "-m"])
def test_options_stand_anywhere(in_tmp, at, option):
    """hydra 3053: overrides behind ``--multirun`` were unrecognized arguments where others stood before it."""
    words = ["seed=1,2", "study=s", "control_seeds=1"]
    found = checked(*words[:at], option, *words[at:])
    assert found.multirun
    assert [plan.seed for _, plan in found.jobs] == [1, 2]
    assert len(hydras_jobs(found)) == 2


def test_options_with_values_are_passed_on(in_tmp):
    given = ["a=1", "--config-dir", "mine", "b=2", "--cfg", "job", "--resolve", "c=3", "-p", "model"]
    options = read_options(given)
    words = arguments_of(options, options.overrides)
    assert words[-3:] == ["a=1", "b=2", "c=3"]
    assert vars(read_options(words)) == vars(options)


def test_options_that_exclude_each_other_are_one_line(in_tmp):
    assert problems("--multirun", "--cfg", "job") == ["--multirun --cfg: only one of them at a time"]
    assert problems("--resolve") == ["--resolve: goes with --cfg or --help"]


def test_an_unknown_option_is_one_line(in_tmp, capsys):
    with pytest.raises(SystemExit) as raised:
        check_command_line(["--mutlirun", "seed=1,2"])
    assert raised.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("error: unrecognized arguments: --mutlirun")


def test_the_mode_may_be_configured(in_tmp):
    """hydra 1999: ``hydra.mode=MULTIRUN`` ended in a KeyError of ours."""
    found = checked("hydra.mode=MULTIRUN", "seed=1,2")
    assert found.multirun
    assert all(plan.one_of_several for _, plan in found.jobs)
    assert len(hydras_jobs(found)) == 2
    assert not checked("hydra.mode=RUN", "seed=1").multirun
    assert checked("hydra.mode=RUN", "--multirun", "seed=1").multirun
    assert "hydra.mode" in problems("hydra.mode=SOME")[0]


def test_an_experiment_may_say_that_it_is_a_sweep_and_its_draw_is_drawn_once(own_conf):
    found = checked("--config-dir", own_conf, "experiment=mine")
    assert found.multirun
    assert found.jobs[0][1].study == "2024"
    seeds = [plan.seed for _, plan in found.jobs]
    assert sorted(seeds) == sorted([*range(1, 9)] * 2)
    options = read_options(found.arguments)
    assert options.config_dir == own_conf
    (drawn,) = [line for line in options.overrides if line.startswith("seed=")]
    assert drawn == f"seed={','.join(map(str, seeds[::2]))}"
    # What is given on the command line wins, as always.
    found = checked("--config-dir", own_conf, "experiment=mine", "seed=7")
    assert [plan.seed for _, plan in found.jobs] == [7, 7]


@pytest.mark.parametrize(
    "sweep",
    [
        "seed=shuffle(1,2,3,4,5,6,7,8)",
        "seed=shuffle(range(1,9))",
        "study=shuffle('a b','c,d',e,f,g,h,i,j)",
        "persona=shuffle(introvert,extrovert,feeler,thinker,judger,sensor,intuitive,perceiver)",
    ],
)
def test_a_shuffled_sweep_is_drawn_once(in_tmp, sweep):
    found = checked("--multirun", sweep)
    own = [[line for line in job if line.split("=")[0] == sweep.split("=")[0]] for job, _ in found.jobs]
    theirs = [[line for line in job if line.split("=")[0] == sweep.split("=")[0]] for job in hydras_jobs(found)]
    assert own == theirs
    assert len(own) == 8
    others = {tuple(map(str, (job for job, _ in checked("--multirun", sweep).jobs))) for _ in range(4)}
    assert len(others) > 1, "it is still drawn anew by every command"


def test_a_shuffled_list_is_drawn_once(in_tmp):
    """It is shuffled whenever it is read, and Hydra reads it again."""
    found = checked("controls=shuffle([random,opposite,generic,magnitude])")
    (line,) = [line for line in read_options(found.arguments).overrides if line.startswith("controls=")]
    assert line == f"controls=[{','.join(found.jobs[0][1].controls)}]"


NAMES = [
    "file (1).csv",
    "räuber.jsonl",
    "50%_#1",
    "epoch=9-step=8.csv",
    "it's (1).csv",
    'say "hi" #1',
    "a[1].csv",
    "~/x.csv",
]


@pytest.mark.parametrize("name", [*NAMES, "~/x.csv", "ends in a \\ (1)\\", "名前.csv"])
def test_what_wants_quotes_is_told_with_them(in_tmp, pair_file, name):
    """hydra 1577, 2381: lexer errors that named neither the key nor a cure. What is told works in a shell."""
    (problem,) = problems("calibration=pairs", f"calibration.path={name}")
    assert problem.startswith(f"calibration.path={name}: ")
    told = problem.partition("; as a text it is ")[2]
    assert told == to_type("calibration.path", name)
    (word,) = shlex.split(told)
    (override,) = OverridesParser.create().parse_overrides([word])
    assert override.value() == name


def test_a_file_with_such_a_name_is_read(in_tmp, pair_file):
    shutil.copy(pair_file, in_tmp / "räuber (1).jsonl")
    (word,) = shlex.split(
        problems("calibration.path=räuber (1).jsonl", "calibration=pairs")[0].rpartition(" it is ")[2]
    )
    check_command_line(["model=tiny_random", "method=random", "tracker=none", "calibration=pairs", word])


def test_all_of_them_at_once_and_nothing_where_quotes_are_no_cure(in_tmp):
    found = problems("calibration.path=a (1).csv", "study=#1", "räuber=1", "seed")
    assert len(found) == 4
    assert "as a text" not in found[2]
    assert found[3] == "seed: expected key=value"
    assert "as a text" not in problems("method.overrides=[mlp:0.3 #]")[0]


def test_several_values_without_a_sweep(in_tmp):
    (problem,) = problems("evaluator=choice,capability")
    assert "for a sweep add --multirun, for a list type 'evaluator=[choice,capability]', for a text type" in problem


@pytest.mark.parametrize(
    ("given", "study"),
    [("2024", "2024"), ("1e5", "1e5"), ("007", "007"), ("1_0", "1_0"), ("3.10", "3.10"), ("-1", "-1")],
)
def test_a_study_may_look_like_a_number(in_tmp, given, study):
    for found in (checked(f"study={study}"), checked(f"++study={study}"), checked("-m", f"study={study}", "seed=1,2")):
        assert {plan.study for _, plan in found.jobs} == {study}
        assert found.jobs[0][1].directory.parts[:2] == ("outputs", study)
    found = checked("--multirun", f"study={study},b,'x y'")
    assert [plan.study for _, plan in found.jobs] == [study, "b", "x y"]
    assert [line for job in hydras_jobs(found) for line in job if line.startswith("study=")] == [
        line for job, _ in found.jobs for line in job if line.startswith("study=")
    ]


def test_numbers_are_texts_in_every_sweep_of_studies_and_in_output_dir(in_tmp):
    assert [plan.study for _, plan in checked("-m", "study=range(2020,2023)").jobs] == ["2020", "2021", "2022"]
    assert [plan.study for _, plan in checked("-m", "study=choice(2020,2021)").jobs] == ["2020", "2021"]
    assert str(checked("output_dir=2024").jobs[0][1].directory) == "2024"
    assert "study=True: must be a name" in problems("study=true")[0]


def test_elsewhere_a_number_for_a_text_is_told_what_to_type(in_tmp):
    arguments = ["tracker=wandb", "tracker.project=2024"]
    assert problems(*arguments) == [
        "tracker.project=2024: must be a valid string; as a text it is tracker.project='\"2024\"'"
    ]


def test_a_directory_with_a_comma_and_a_space(own_conf):
    checked("--config-dir", own_conf, "persona=hermit")
    path = "file://" + own_conf.replace("'", "\\'")
    checked(f"hydra.searchpath=['{path}']", "persona=hermit")
    assert "did you mean hermit?" in problems("--config-dir", own_conf, "persona=hermitt")[0]
    both = ["--config-dir", own_conf, "hydra.searchpath=[pkg://persona_prune]", "persona=hermit"]
    checked(*both)


def test_a_sweep_of_an_experiment_in_such_a_project(own_conf, cache, monkeypatch):
    """The whole thing, where the project's own directory has such a name, too."""
    project = Path(own_conf).parent / "pröject, (2)"
    project.mkdir()
    for name in ("persona_prune", "conf"):
        (project / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "persona_prune.run", *SMALL, "--config-dir", own_conf, "experiment=mine"]
    env = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run(
        [*command, "seed=shuffle(1,2)"], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "4 jobs: 4 done" in done.stderr
    assert len(list((project / "outputs" / "2024").glob("*/metrics.json"))) == 4
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="completion in bash")
def test_completion_in_bash(in_tmp):
    python = shlex.quote(sys.executable)
    script = (
        f'eval "$({python} -m persona_prune.run -sc install=bash)"\n'
        f"COMP_LINE='{sys.executable} -m persona_prune.run --multirun seed=1 model=tiny'\n"
        'persona_prune_completion; echo "${COMPREPLY[@]}"\n'
        "COMP_LINE='python other.py model=tiny'; COMPREPLY=(); persona_prune_completion; echo \"[${COMPREPLY[@]}]\"\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], cwd=in_tmp, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["model=tiny_random", "[]"], done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m persona_prune.run model=", "persona_prune.run model="),
        ("/opt/x y/python3.11 other.py -m", "/opt/x y/python3.11 other.py -m"),
        ("/opt/venv/bin/python3.11  -m  persona_prune.run -m ", "persona_prune.run -m "),
    ],
)
def test_hydra_sees_a_line_it_can_read(monkeypatch, capsys, line, expected):
    monkeypatch.setenv("COMP_LINE", line)
    assert not completion.answer(["query=bash"])
    assert os.environ["COMP_LINE"] == expected
    assert completion.answer(["install=bash"])
    assert completion.answer(["uninstall=bash"])
    assert "complete -r python" in capsys.readouterr().out


def test_what_hydra_is_asked_reaches_it_wherever_the_options_stand(in_tmp, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py"])
    run._ask_hydra(["model=tiny_random", "--cfg", "job", "--package", "model", "seed=1"])
    assert "name: tiny_random" in capsys.readouterr().out
