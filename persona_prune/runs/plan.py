"""From a composed configuration to checked objects: every key is consumed or refused, before any weights load."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from persona_prune.calibration import signatures
from persona_prune.calibration.sources import Calibration, EmbeddedCalibration
from persona_prune.common.validation import neighbours
from persona_prune.evaluators import base
from persona_prune.evaluators.base import Evaluator
from persona_prune.methods import contrastive_taylor
from persona_prune.methods.base import NoMask
from persona_prune.methods.baselines.base import Baseline
from persona_prune.methods.baselines.prompt import no_system_prompt
from persona_prune.methods.selection import Selection
from persona_prune.models.devices import pick_device
from persona_prune.models.sources import HubModel, ModelSpec
from persona_prune.personas.pair_files import without_leaks
from persona_prune.personas.pairs import Pair, content_hash
from persona_prune.personas.persona import AnyPersona, Mix
from persona_prune.runs.instantiating import ConfigError, instantiate, parts_of_mix, resolved, unknown_keys
from persona_prune.runs.sweep_settings import SweepSettings
from persona_prune.runs.tracking.base import Tracker
from persona_prune.saved.method import SavedMask

_NODES = ("model", "persona", "calibration", "method", "tracker", "sweep")
_VALUES = ("study", "seed", "output_dir", "controls", "control_seeds", "with_prompt")
_LONGEST_NAME = 200  # file systems take 255 bytes, some of which what stands in the directory's name or beside it needs
_CONTROLS = ("random", "magnitude", "generic", "opposite")


Kind = Selection | Baseline | SavedMask | NoMask
"""What ``method=`` can be; all say whether they use pairs, hold some out, and are a control."""


@dataclass(frozen=True)
class Plan:
    """Everything a run needs, checked.

    ``controls`` are the masks that a mask is compared with, ``control_seeds`` the number of random ones, and
    ``with_prompt`` whether it is also measured under the persona's system prompt. ``one_of_several`` tells a job of a
    sweep.
    """

    model: ModelSpec
    persona: AnyPersona
    calibration: Calibration
    method: Kind
    evaluators: Mapping[str, Evaluator]
    tracker: Tracker
    sweep: SweepSettings
    study: str
    seed: int
    controls: Sequence[str]
    control_seeds: int
    with_prompt: bool
    name: str
    directory: Path
    config: Mapping[str, Any]
    config_hash: str
    one_of_several: bool


def build(cfg: DictConfig, *, sweep: bool = False) -> Plan:
    """Return the plan of a run; nothing heavy is loaded and nothing is written.

    Args:
        cfg: the composed configuration, without the ``hydra`` node.
        sweep: whether this is one job of several, so that ``output_dir`` is their parent and not the run directory.

    Raises:
        ConfigError: with all problems found, not only the first.
    """
    config, problems = resolved(cfg)
    for key in ("study", "output_dir"):
        if isinstance(config.get(key), int | float) and not isinstance(config[key], bool):
            config[key] = str(config[key])  # a name that YAML takes for a number
    problems += unknown_keys(config, (*_NODES, *_VALUES, "evaluator"), "")
    nodes: dict[str, Any] = {}
    for key in _NODES:
        node = config.get(key)
        if key == "persona" and isinstance(node, dict) and isinstance(node.get("weights"), dict):
            personas = parts_of_mix(node["weights"], problems)
            complete = len(personas) == len(node["weights"])
            nodes[key] = instantiate(key, {**node, "personas": personas}, problems) if complete else None
        else:
            nodes[key] = instantiate(key, node, problems)
    evaluators = {}
    if not isinstance(config.get("evaluator"), dict) or not config["evaluator"]:
        problems.append("evaluator: name at least one, such as evaluator=[choice,capability]")
    else:
        for key, node in config["evaluator"].items():
            evaluators[key] = instantiate(f"evaluator.{key}", node, problems)
    problems += _value_problems(config)
    problems += _tracker_problems(nodes["tracker"], config.get("study"))
    if nodes["persona"] is not None:
        problems += _data_problems(nodes, evaluators, with_prompt=config.get("with_prompt") is True)
    if problems:
        raise ConfigError(problems)

    persona, method = nodes["persona"], nodes["method"]
    del config["sweep"]  # how jobs are run, not what they are
    identity = {key: value for key, value in config.items() if key not in ("tracker", "output_dir")}
    content: list[object] = [persona.system_prompt, *(evaluator.identity(persona) for evaluator in evaluators.values())]
    content += [base.VERSION, contrastive_taylor.VERSION, signatures.VERSION, nodes["model"].stamp]
    content += [content_hash(pairs) for pairs in calibration_pairs(nodes["calibration"], persona, method)]
    if isinstance(method, SavedMask):
        content.append(method.digest)
    digest = hashlib.sha256(json.dumps([identity, content], sort_keys=True).encode()).hexdigest()[:12]
    parts = [nodes["model"].name, persona.name + ("-flipped" if persona.flip else ""), method.name]
    parts += [f"{method.sparsity:g}"] if hasattr(method, "sparsity") else []
    name = "-".join([*parts, f"seed{config['seed']}"])
    if len(name) > _LONGEST_NAME:
        raise ConfigError([_too_long(name, nodes)])
    directory = Path("outputs") / config["study"] / f"{name}-{digest[:6]}"
    if config["output_dir"] is not None:
        chosen = Path(config["output_dir"]).expanduser()
        directory = chosen / directory.name if sweep else chosen
    _check_writable(directory)
    return Plan(
        **nodes,
        evaluators=evaluators,
        study=config["study"],
        seed=config["seed"],
        controls=config["controls"],
        control_seeds=config["control_seeds"],
        with_prompt=config["with_prompt"],
        name=name,
        directory=directory,
        config=config,
        config_hash=digest,
        one_of_several=sweep,
    )


def _value_problems(config: Mapping[str, Any]) -> list[str]:
    problems = []
    seed, study, output_dir = (config.get(key) for key in ("seed", "study", "output_dir"))
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        problems.append(f"seed={seed}: must be a whole number in [0, 2^31)")
    if not isinstance(study, str) or not study or study in (".", "..") or "/" in study:
        problems.append(f"study={study!r}: must be a name that can be a directory")
    controls, seeds, with_prompt = (config.get(key) for key in ("controls", "control_seeds", "with_prompt"))
    if not isinstance(controls, list):
        problems.append(f"controls={controls}: must be a list, such as [random,opposite], or [] for none")
    else:
        problems += [
            f"controls: no {name!r}; {neighbours(str(name), _CONTROLS)}" for name in controls if name not in _CONTROLS
        ]
    if not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1:
        problems.append(f"control_seeds={seeds}: must be a whole number of at least 1")
    if not isinstance(with_prompt, bool):
        problems.append(f"with_prompt={with_prompt}: must be true or false")
    if output_dir is not None and not isinstance(output_dir, str):
        problems.append(f"output_dir={output_dir!r}: must be a path")
    return problems


def _tracker_problems(tracker: Tracker | None, study: object) -> list[str]:
    if tracker is None or not isinstance(study, str):
        return []  # reported already
    try:
        tracker.check(study)
    except ValueError as error:
        return [f"tracker: {error}"]
    return []


def _data_problems(nodes: Mapping[str, Any], evaluators: Mapping[str, Any], *, with_prompt: bool) -> list[str]:
    """Read what will be read, so that missing, malformed or leaking files are known now."""
    problems = []
    persona, calibration, method, model = (nodes[key] for key in ("persona", "calibration", "method", "model"))
    checks: list[tuple[str, Any]] = [
        (f"evaluator.{key}", lambda e=evaluator: e.check(persona))
        for key, evaluator in evaluators.items()
        if evaluator is not None
    ]
    uses_pairs = calibration is not None and method is not None and method.uses_pairs
    if isinstance(method, SavedMask):
        checks.append(("method", method.check))
    elif method is not None and not isinstance(method, Selection | NoMask):
        checks.append(("method", lambda: method.check(persona)))
    if with_prompt and not (persona.system_prompt and persona.spoken_for):
        problems.append(f"with_prompt: {no_system_prompt(persona)}")
    if isinstance(persona, Mix) and uses_pairs and not isinstance(calibration, EmbeddedCalibration):
        problems.append(
            f"persona={persona.name}: calibrates on the embedded pairs of its parts; use calibration=embedded"
        )
    if uses_pairs:
        checks += [("calibration", lambda p=part: calibration.check(p)) for part, _ in persona.parts]
    if isinstance(model, HubModel):
        checks.append(("model", model.check))
    if model is not None and hasattr(model, "device"):
        checks.append(("model", lambda: pick_device(model.device)))
    for where, check in checks:
        try:
            check()
        except (ValueError, OSError) as error:
            problems.append(f"{where}: {error}")
    if not problems:
        where = "method" if isinstance(method, SavedMask) else "calibration"
        try:
            asked = evaluated_prompts(persona, evaluators)
            if isinstance(method, SavedMask):
                method.check_unseen(asked)
            for pairs in calibration_pairs(calibration, persona, method) if uses_pairs else ():
                without_leaks(pairs, asked, calibration.on_leak)
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return problems


def calibration_pairs(calibration: Calibration, persona: AnyPersona, method: Kind) -> list[tuple[Pair, ...]]:
    """Return all pairs that a method sees: what it is made from, and what its settings are chosen on."""
    parts = [part for part, _ in persona.parts] if method.uses_pairs else []
    if method.uses_validation:
        return [pairs for part in parts for pairs in calibration.divided(part)]
    return [calibration.pairs(part) for part in parts]


def evaluated_prompts(persona: AnyPersona, evaluators: Mapping[str, Evaluator | None]) -> set[str]:
    """Return all normalised prompts that any of the evaluators asks."""
    return {p for evaluator in evaluators.values() if evaluator for p in evaluator.prompts(persona)}


def _too_long(name: str, nodes: Mapping[str, Any]) -> str:
    key = max(("model", "persona", "method"), key=lambda key: len(nodes[key].name))
    named = nodes[key].name
    return f"{key}.name={named[:20]}...: {len(name)} characters for the run's name, at most {_LONGEST_NAME}: shorten it"


def _check_writable(directory: Path) -> None:
    existing = directory.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise ConfigError([f"output_dir={directory}: {existing} is a file, not a directory"])
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ConfigError([f"output_dir={directory}: cannot write to {existing} ({error.strerror})"]) from None
