"""Objects from nodes of a configuration; every key is consumed or refused."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, cast

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from persona_prune.common.conf_files import config_directory
from persona_prune.common.validation import neighbours
from persona_prune.personas.persona import Persona


class ConfigError(ValueError):
    """One or more problems with a configuration; one line each in ``problems``."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


def resolved(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Return a composed configuration as plain values, and a line for every missing one."""
    try:
        config = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([str(error).splitlines()[0]]) from None
    missing = [f"{key}: no value; give one with {key}=..." for key in sorted(OmegaConf.missing_keys(cfg))]
    return cast(dict[str, Any], config), missing


def unknown_keys(config: Mapping[str, Any], known: Iterable[str], prefix: str) -> list[str]:
    """Return a line for every key that is not ``known``."""
    known = list(known)
    return [f"{prefix}{key}: unknown key; {neighbours(key, known)}" for key in config if key not in known]


def instantiate(path: str, node: object, problems: list[str]) -> Any:
    """Return the object a node describes; on failure add to ``problems`` and return None."""
    if not isinstance(node, dict) or "_target_" not in node:
        problems.append(f"{path}: expected a group choice with _target_, got {node!r}")
        return None
    arguments = {str(key): value for key, value in node.items() if key != "_target_"}
    if "???" in arguments.values():
        return None  # reported as missing already
    try:
        target = get_object(node["_target_"])
    except Exception as error:
        problems.append(f"{path}._target_: {str(error).splitlines()[0]}")
        return None
    known = list(inspect.signature(target).parameters)
    unknown = unknown_keys(arguments, known, f"{path}.")
    problems += unknown
    try:
        return target(**{key: value for key, value in arguments.items() if key in known})
    except ValidationError as error:
        for detail in error.errors():
            where = ".".join(str(part) for part in (path, *detail["loc"]))
            got = f"={detail['input']}" if detail["loc"] and "missing" not in detail["type"] else ""
            problems.append(f"{where}{got}: {_message(detail['msg'])}{_as_text(where, detail)}")
    except ValueError as error:
        problems.append(f"{path}: {error}")
    return None


def parts_of_mix(weights: Mapping[str, Any], problems: list[str]) -> list[Persona]:
    """Return the personas that a mix names."""
    directory = config_directory() / "persona"
    nodes = {file.stem: OmegaConf.load(file) for file in directory.glob("*.yaml") if file.stem != "custom"}
    names = {name for name, node in nodes.items() if "weights" not in node}
    problems += [
        f"persona.weights.{name}: no such persona; {neighbours(name, names)}" for name in weights if name not in names
    ]
    found = [instantiate("persona", OmegaConf.to_container(nodes[name]), problems) for name in weights if name in names]
    return [persona for persona in found if persona is not None]


def _as_text(where: str, detail: Mapping[str, Any]) -> str:
    """Return what to type where a text was taken for a number."""
    if detail["type"] != "string_type" or not isinstance(detail["input"], int | float):
        return ""
    return f"; as a text it is {where}='\"{detail['input']}\"'"


def _message(text: str) -> str:
    return text.removeprefix("Value error, ").replace("Input should be", "must be")
