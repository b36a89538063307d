"""Serve one model with many personas: ``python -m persona_prune.serve personas.extrovert=FILE [key=value ...]``."""

import importlib.util
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from persona_prune.common import cli
from persona_prune.common.conf_files import config_directory
from persona_prune.common.validation import neighbours
from persona_prune.masks.switching import PersonaSwitcher
from persona_prune.models.sources import ModelSpec
from persona_prune.saved.persona import SavedPersona
from persona_prune.saved.rebuilt_run import model_of
from persona_prune.serve.settings import ServerSettings

_KEY_VARIABLE = "PERSONA_PRUNE_API_KEY"
_LITERAL = ("model", "host", "api_key", "dtype", "device")


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop.

    Returns:
        0 after a clean end, 2 for bad input, 1 where nobody can be answered any more, 130 if interrupted in loading.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"{__doc__}\n\n{_defaults_file().read_text(encoding='utf-8')}", end="")
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    return cli.run(lambda: _start(arguments))


def _start(arguments: Sequence[str]) -> None:
    missing = [name for name in ("fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed: pip install -e '.[serve]'")
    settings = _settings(arguments)
    personas = {name: SavedPersona.load(path) for name, path in settings.personas.items()}
    first = next(iter(personas.values()))
    spec = model_of(first, settings.model, dtype=settings.dtype, device=settings.device)
    _serve(settings, spec, personas)


def _serve(settings: ServerSettings, spec: ModelSpec, personas: dict[str, SavedPersona]) -> None:
    """Load the model and serve it; the port is taken first, so that a taken one is known before the weights load."""
    from persona_prune.serve.api import Service, create_app
    from persona_prune.serve.jobs import Limits
    from persona_prune.serve.prompts import PromptReader
    from persona_prune.serve.scheduler import Scheduler
    from persona_prune.serve.server import is_local, listening_socket, serve

    with listening_socket(settings.host, settings.port) as bound:
        if not is_local(bound) and settings.api_key is None:
            print("warning: anyone who can reach this machine can use the model: set an api_key", file=sys.stderr)
        loaded = spec.load()
        switcher = PersonaSwitcher(loaded, personas)
        limits = Limits(
            batch=settings.batch,
            batch_tokens=settings.batch_tokens,
            queue=settings.queue,
            turn_seconds=settings.turn_seconds,
        )
        scheduler = Scheduler(loaded, switcher, limits)
        service = Service(
            name=loaded.name.replace("_", "-"),
            fingerprint=loaded.fingerprint,
            personas=list(personas),
            reader=PromptReader(
                loaded, max_prompt_tokens=settings.max_prompt_tokens, max_new_tokens=settings.max_new_tokens
            ),
            scheduler=scheduler,
            api_key=settings.api_key,
            local_only=is_local(bound) and settings.api_key is None,
            max_body_bytes=settings.max_body_bytes,
        )
        address, port = bound.getsockname()[:2]
        place = f"[{address}]" if ":" in address else address
        ready = f"serving {', '.join(service.models)} on http://{place}:{port}"
        serve(create_app(service), scheduler, bound, shutdown_seconds=settings.shutdown_seconds, ready=ready)


def _defaults_file() -> Path:
    return config_directory() / "serve.yaml"


def _settings(arguments: Sequence[str]) -> ServerSettings:
    """Return the settings: those of ``conf/serve.yaml``, changed by ``key=value`` arguments.

    Raises:
        ValueError: an argument is no ``key=value``, its key unknown or given twice, or its value impossible.
    """
    values: dict[str, Any] = yaml.safe_load(_defaults_file().read_text(encoding="utf-8"))
    values["api_key"] = os.environ.get(_KEY_VARIABLE) or None
    personas: dict[str, str] = {}
    given: set[str] = set()
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not text:
            raise ValueError(f"{argument}: expected key=value")
        if key in given:
            raise ValueError(f"{key}: given twice")
        given.add(key)
        group, dot, name = key.partition(".")
        if group == "personas" and dot:
            personas[name] = text
        elif key == "personas" or key not in values:
            known = [f"personas.{name or 'NAME'}" if known == "personas" else known for known in values]
            raise ValueError(f"{key}: unknown key; {neighbours(key, known)}")
        else:
            values[key] = text if key in _LITERAL else _value(key, text)
    if not personas:
        raise ValueError("no persona: give at least one, as personas.extrovert=FILE")
    try:
        return ServerSettings(**values | {"personas": personas})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        if problem["loc"][0] == "personas":
            message = "a persona's name is made of letters, digits and _ . + -, and begins with a letter or digit"
        shown = "" if problem["loc"][0] == "api_key" else f"={problem['input']}"
        raise ValueError(f"{where}{shown}: {message}") from None


def _value(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{key}={text}: not a number") from None
    return float(value) if isinstance(value, int) and key.endswith("_seconds") else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
