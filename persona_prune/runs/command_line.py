"""Checking a command line as a whole: every job of a sweep is composed and built before the first one starts."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from persona_prune.common.conf_files import config_directory
from persona_prune.common.validation import neighbours
from persona_prune.runs.instantiating import ConfigError
from persona_prune.runs.overrides import (
    arguments_of,
    parse,
    quoted,
    read_options,
    search_path,
    several_values,
    spelt_out,
)
from persona_prune.runs.plan import Plan, build
from persona_prune.runs.sweep_settings import SweepSettings

_EXTRAS = {"joblib": "joblib", "submitit": "slurm", "ray": "ray", "optuna": "optuna"}


@dataclass(frozen=True)
class Checked:
    """What a command line asks for, checked.

    Attributes:
        jobs: the overrides and the plan of every job; of a searching sweeper, of the corners of what it searches.
        multirun: whether it is a sweep.
        complete: whether ``jobs`` are all there will be, in this order.
        parallel: whether a launcher runs jobs in other processes.
        arguments: the command line for Hydra, which means these very jobs.
    """

    jobs: Sequence[tuple[Sequence[str], Plan]]
    multirun: bool
    complete: bool
    parallel: bool
    arguments: Sequence[str]

    @property
    def sweep(self) -> SweepSettings:
        """How the sweep behaves."""
        return self.jobs[0][1].sweep


def check_command_line(arguments: Sequence[str]) -> Checked | None:
    """Check groups, keys and values of every job that ``arguments`` describe; nothing is loaded or written.

    Returns None where the arguments only ask Hydra for information.

    Raises:
        ConfigError: with all problems found.
    """
    options = read_options(arguments)
    asks_hydra = (options.help, options.hydra_help, options.cfg, options.info, options.shell_completion)
    if any(asks_hydra):
        return None
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        # What is drawn at random is drawn here, once: the jobs that are checked are the jobs that run.
        overrides = parse(parser, [spelt_out(override) for override in parse(parser, options.overrides)])
        searched = search_path(overrides, options.config_dir)
        groups = _groups(searched)
        at = [f"hydra.searchpath=[{','.join(map(quoted, searched))}]"] if searched else []
        own = [o for o in overrides if not o.key_or_group.startswith("hydra")]
        problems, bad_groups = _group_problems(groups, own)
        problems += _key_problems(groups, [o for o in own if o.key_or_group not in bad_groups], at)
        if problems:
            raise ConfigError(problems)
        settings = [o for o in overrides if o.key_or_group.startswith("hydra")]
        lines = [str(o.input_line) for o in settings if o.key_or_group != "hydra.searchpath"]
        machinery = _compose([*at, *lines, *map(_first_value, own)], hydra=True).hydra
        complete = machinery.sweeper._target_.startswith("hydra._internal")
        parallel = not machinery.launcher._target_.startswith("hydra._internal")
        multirun = options.multirun or machinery.mode == RunMode.MULTIRUN
        drawn: list[str] = []
        if multirun:
            _check_plugins(machinery)
            own, drawn = _with_parameters(parser, machinery.sweeper, own)
        elif swept := [several_values(override) for override in own if override.is_sweep_override()]:
            raise ConfigError(swept)
        jobs = []
        for job in _jobs(own):
            try:
                plan = build(_compose([*at, *job]), sweep=multirun)
            except ConfigError as error:
                problems += error.problems
                continue
            jobs.append((job, plan))
            if multirun and not complete:
                problems += plan.sweep.search_problems(plan.evaluators)
    if problems:
        raise ConfigError(problems)
    options.run, options.multirun = False, multirun
    words = arguments_of(options, [*(str(override.input_line) for override in overrides), *drawn])
    return Checked(jobs, multirun, complete, parallel, words)


def _groups(searched: Sequence[str]) -> dict[str, set[str]]:
    """Return group -> options, of our own directory and of those that the user adds."""
    added = [Path(place.removeprefix("file://")) for place in searched if not place.startswith("pkg://")]
    groups: dict[str, set[str]] = {}
    for directory in (config_directory(), *added):
        for file in directory.glob("*/*.yaml"):
            if not file.stem.startswith("_"):
                groups.setdefault(file.parent.name, set()).add(file.stem)
    groups.setdefault("experiment", set())
    return groups


def _group_problems(groups: Mapping[str, set[str]], overrides: Sequence[Override]) -> tuple[list[str], set[str]]:
    problems: list[str] = []
    bad: set[str] = set()
    for override in overrides:
        if override.key_or_group not in groups or override.type == OverrideType.DEL:
            continue
        options = groups[override.key_or_group]
        for choice in _values(override):
            for name in choice if isinstance(choice, list) else [choice]:
                if name is not None and str(name) not in options:
                    problems.append(f"{override.key_or_group}={name}: no such option; {neighbours(str(name), options)}")
                    bad.add(override.key_or_group)
    return problems, bad


def _key_problems(groups: Mapping[str, set[str]], overrides: Sequence[Override], at: Sequence[str]) -> list[str]:
    lines = [_first_value(override) for override in overrides if override.key_or_group in groups]
    cfg = _compose([*at, *lines])
    problems = []
    for override in overrides:
        key = override.key_or_group
        if key in groups or override.type != OverrideType.CHANGE:
            continue
        node: object = cfg
        for depth, part in enumerate(key.split(".")):
            if not isinstance(node, DictConfig):
                problems.append(f"{key}: {'.'.join(key.split('.')[:depth])} has no keys of its own")
                break
            if part not in list(node):
                known = [str(name) for name in node if name != "_target_"]
                problems.append(f"{key}: unknown key; {neighbours(part, known)}")
                break
            node = None if OmegaConf.is_missing(node, part) else node[part]
    return problems + _weight_problems(cfg, overrides)


def _weight_problems(cfg: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Refuse weights of a mix that Hydra would merge with those of a preset: the mix would have parts nobody named."""
    preset = OmegaConf.select(cfg, "persona.weights", throw_on_missing=False) or {}
    gone = {override.key_or_group for override in overrides if override.type == OverrideType.DEL}
    given = [
        value for override in overrides if override.key_or_group == "persona.weights" for value in _values(override)
    ]
    left = {str(name) for value in given if isinstance(value, dict) for name in preset if name not in value}
    keys = sorted(key for name in left if (key := f"persona.weights.{name}") not in gone)
    if not keys:
        return []
    taken = " ".join(f"'~{key}'" for key in keys)
    return [f"persona.weights: what is given is added to the preset's; take its other parts out with {taken}"]


def _check_plugins(machinery: DictConfig) -> None:
    """Refuse a launcher or sweeper that is not installed, and one that would look for the worst."""
    for part in ("launcher", "sweeper"):
        package = ".".join(machinery[part]._target_.split(".")[:2])
        plugin = next((name for name in _EXTRAS if name in package), None)
        try:
            found = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:
            found = False
        if plugin is not None and not found:
            extra = f"pip install -c constraints.txt -e '.[{_EXTRAS[plugin]}]'"
            raise ConfigError([f"hydra/{part}: {package.split('.')[1]} is not installed: {extra}"])
    if str(machinery.sweeper.get("direction", "maximize")).rpartition(".")[2] != "maximize":
        raise ConfigError(
            [f"hydra.sweeper.direction={machinery.sweeper.direction}: more is better; use hydra/sweeper=optuna_bounded"]
        )


def _with_parameters(
    parser: OverridesParser, sweeper: DictConfig, overrides: Sequence[Override]
) -> tuple[list[Override], list[str]]:
    """Return the overrides with what ``hydra.sweeper.params`` adds to them, and the lines that were drawn of it.

    The command line wins, with those lines, too.
    """
    found = parse(parser, [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()])
    lines = [spelt_out(override) for override in found]
    both = [*parse(parser, lines), *overrides]
    named = {override.get_key_element() for override in overrides}
    drawn = [
        line
        for override, line in zip(found, lines, strict=True)
        if line != override.input_line and override.get_key_element() not in named
    ]
    return list({override.get_key_element(): override for override in both}.values()), drawn


def _jobs(overrides: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of every job; of an interval, which only a searching sweeper understands, both ends."""
    jobs: list[list[str]] = [[]]
    for override in overrides:
        if override.is_sweep_override():
            key = override.get_key_element()
            interval = override.value()
            ends = [interval.start, interval.end] if isinstance(interval, IntervalSweep) else None
            lines = [f"{key}={value}" for value in ends or override.sweep_string_iterator()]
        else:
            lines = [str(override.input_line)]
        jobs = [[*job, line] for job in jobs for line in lines]
    return jobs


def _values(override: Override) -> list[object]:
    if not override.is_sweep_override():
        return [override.value()]
    return list(override.sweep_iterator()) if override.is_discrete_sweep() else []


def _first_value(override: Override) -> str:
    if not override.is_sweep_override():
        return str(override.input_line)
    interval = override.value()
    first = interval.start if isinstance(interval, IntervalSweep) else next(iter(override.sweep_string_iterator()))
    return f"{override.get_key_element()}={first}"


def _compose(overrides: Sequence[str], *, hydra: bool = False) -> DictConfig:
    try:
        return compose("config", overrides=list(overrides), return_hydra_config=hydra)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([" ".join(str(error).split())]) from None
