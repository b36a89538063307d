"""The objects an earlier run was made of, from the configuration it left behind."""

import dataclasses
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from persona_prune.common.conf_files import config_directory
from persona_prune.common.errors import one_line
from persona_prune.evaluators.base import Evaluator
from persona_prune.models.by_name import changed, model_spec
from persona_prune.models.sources import HubModel, ModelSpec, names_directory
from persona_prune.personas.pair_files import embedded_pairs
from persona_prune.personas.persona import AnyPersona
from persona_prune.saved.persona import SavedPersona

_MOVED = {
    "persona_prune.models.HubModel": "persona_prune.models.sources.HubModel",
    "persona_prune.models.RandomModel": "persona_prune.models.sources.RandomModel",
    "persona_prune.models.WheelModel": "persona_prune.models.sources.WheelModel",
    "persona_prune.personas.Mix": "persona_prune.personas.persona.Mix",
    "persona_prune.personas.Persona": "persona_prune.personas.persona.Persona",
}
"""Where runs of 0.1.0 say that a class is -> where it is now."""


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run directory and its configuration (``.hydra/config.yaml``)."""

    directory: Path
    config: Mapping[str, Any]

    def model(self) -> ModelSpec:
        """Return what loads the run's model; raise ValueError if it cannot be built."""
        spec: ModelSpec = self._build("model", self.config["model"])
        return spec

    def persona(self) -> AnyPersona:
        """Return the run's persona; raise ValueError if it cannot be built."""
        node = self.config["persona"]
        if "weights" in node:
            files = [config_directory() / "persona" / f"{name}.yaml" for name in node["weights"]]
            try:
                nodes = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
            except OSError as error:
                raise ValueError(f"{self.directory}: a part of its mix is gone: {one_line(error)}") from None
            node = {**node, "personas": [self._build("persona", part) for part in nodes]}
        persona: AnyPersona = self._build("persona", node)
        return persona

    def choice(self, limit: int | None) -> Evaluator:
        """Return the run's choice evaluator, on ``limit`` items where given.

        Raises:
            ValueError: the run had none.
        """
        node = self.config["evaluator"].get("choice")
        if node is None:
            raise ValueError(f"{self.directory}: the run had no choice evaluator; name another run with --run RUN_DIR")
        evaluator: Evaluator = self._build("evaluator.choice", {**node, **({} if limit is None else {"limit": limit})})
        return evaluator

    def test_prompts(self, number: int) -> list[str]:
        """Return the first embedded test prompts of the persona, of the parts of a mix in turn.

        Raises:
            ValueError: there are not so many, or none.
        """
        of_parts = [embedded_pairs(part, "test") for part, _ in self.persona().parts]
        prompts = list(dict.fromkeys(pair.prompt for turn in zip(*of_parts) for pair in turn))
        return first(prompts, number, f"the embedded test pairs of {self.config['persona']['name']}")

    def _build(self, where: str, node: Mapping[str, Any]) -> Any:
        arguments = {key: value for key, value in node.items() if key != "_target_"}
        try:
            return pkgutil.resolve_name(_MOVED.get(node["_target_"], node["_target_"]))(**arguments)
        except (ImportError, AttributeError, TypeError, KeyError, ValueError) as error:
            raise ValueError(
                f"{self.directory}: its {where} cannot be built by this version: {one_line(error)}"
            ) from None


def open_run(directory: Path) -> SavedRun:
    """Read the configuration of a run.

    Raises:
        OSError: ``directory`` is no run directory.
        ValueError: its configuration is damaged.
    """
    path = directory / ".hydra" / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} is no run directory: it has no .hydra/config.yaml")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not readable as YAML: {one_line(error)}") from None
    missing = [
        key for key in ("model", "persona", "method", "evaluator") if not isinstance(config, dict) or key not in config
    ]
    if missing:
        raise ValueError(f"{path}: no configuration of a run (it lacks {', '.join(missing)})")
    return SavedRun(directory, config)


def first(prompts: list[str], number: int, where: str) -> list[str]:
    """Return the first ``number`` prompts; raise ValueError if there are fewer."""
    if len(prompts) < number:
        raise ValueError(f"{where}: {len(prompts)} prompts, asked for {number}")
    return prompts[:number]


def model_of(
    persona: SavedPersona, name: str | None, *, dtype: str | None = None, device: str | None = None
) -> ModelSpec:
    """Return what loads the model a persona is for.

    Args:
        persona: the persona.
        name: as for `load_model`; None for the model of the run beside the persona file, else the one the file names.
        dtype: as for `load_model`.
        device: as for `load_model`.

    Raises:
        OSError: as `load_model`; or the model was in a directory that is gone, where no hub is asked instead.
        ValueError: as `load_model`; or nothing says which model it is.
    """
    if name is not None:
        return model_spec(name, dtype=dtype, device=device)
    directory = persona.path.parent
    if (directory / ".hydra" / "config.yaml").is_file():
        return changed(_in_its_place(open_run(directory).model(), persona), dtype, device)
    if persona.model is None:
        raise ValueError(f"{persona.path} does not name its model: give it with model=...")
    try:
        spec = model_spec(persona.model)
    except FileNotFoundError:
        place = _place(persona)
        if place is None:
            raise ValueError(f"{persona.path} is for {persona.model}, which has no YAML here: give model=...") from None
        spec = model_spec(str(place))
    return changed(_in_its_place(spec, persona), dtype, device)


def _in_its_place(spec: ModelSpec, persona: SavedPersona) -> ModelSpec:
    """Return what loads the model from the directory that it was in when the persona was made, if it was in one."""
    if not isinstance(spec, HubModel):
        return spec
    place = _place(persona, spec.path)
    return spec if place is None else dataclasses.replace(spec, path=str(place))


def _place(persona: SavedPersona, configured: str | None = None) -> Path | None:
    """Return the directory of a persona's model; None if it was none, as far as can be told.

    Files of earlier versions have the path as it was typed: it is looked for here, and upwards from the file.

    Raises:
        FileNotFoundError: the directory is gone.
    """
    source = persona.manifest["description"].get("model_source")
    path = source.get("path") if isinstance(source, Mapping) else None
    path = path if isinstance(path, str) else configured
    if path is None:
        return None
    local = Path(path).expanduser()
    for base in (Path.cwd(), *persona.path.absolute().parents):
        if (base / local).is_dir():
            return base / local
    if names_directory(path):
        raise FileNotFoundError(f"{persona.path}: its model was in {path}, which is gone: give model=DIRECTORY")
    return None
