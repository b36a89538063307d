"""The words of a command line: Hydra's options and overrides, in an order and a spelling that Hydra understands."""

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Override,
    OverrideType,
    Quote,
    QuotedString,
    RangeSweep,
    ValueType,
)
from hydra.errors import HydraException

from persona_prune.runs.instantiating import ConfigError

_TEXTS = ("study", "output_dir")  # names, though they may look like numbers


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Return Hydra's options and, as ``overrides``, all else, wherever it stands.

    Raises:
        ConfigError: options that exclude each other.
    """
    parser = get_args_parser()
    parser.usage = argparse.SUPPRESS  # an unknown option is one line
    options = parser.parse_intermixed_args(list(arguments))
    modes = {
        "--run": options.run,
        "--multirun": options.multirun,
        "--cfg": options.cfg is not None,
        "--info": options.info is not None,
        "--shell-completion": options.shell_completion,
    }
    asked = [name for name, given in modes.items() if given]
    if len(asked) > 1:
        raise ConfigError([f"{' '.join(asked)}: only one of them at a time"])
    if options.resolve and options.cfg is None and not options.help:
        raise ConfigError(["--resolve: goes with --cfg or --help"])
    return options


def arguments_of(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """Return the command line of these options, with the overrides behind them, which is where Hydra finds them."""
    words = []
    for name, value in vars(options).items():
        option = f"--{name.replace('_', '-')}"
        if name != "overrides" and value is not None and value is not False:
            words.append(option if value is True else f"{option}={value}")
    return [*words, *overrides]


def quoted(text: str) -> str:
    """Return a text as Hydra's grammar takes any text."""
    return QuotedString(text, Quote.double).with_quotes()


def to_type(key: str, text: str) -> str:
    """Return what to type in a shell for ``key`` to have this text as its value."""
    return f"{key}={shlex.quote(quoted(text))}"


def parse(parser: OverridesParser, lines: Sequence[str]) -> list[Override]:
    """Return the overrides that the lines are.

    Raises:
        ConfigError: with all that Hydra's grammar doesn't take; where a quoted text would do, with what to type.
    """
    found, problems = [], []
    for line in lines:
        try:
            found += parser.parse_overrides([line])
        except HydraException as error:
            problems.append(_problem(parser, line, error))
    if problems:
        raise ConfigError(problems)
    return found


def _problem(parser: OverridesParser, line: str, error: HydraException) -> str:
    shown = " ".join(line.split())
    key, equals, value = line.partition("=")
    if not equals:
        return f"{shown}: expected key=value"
    first, *others = str(error).splitlines()
    reason = others[0] if first.startswith("Error parsing override") and others else first
    if reason.startswith("Lexer"):
        reason = "Hydra takes such characters in quotes only"
    try:
        (as_text,) = parser.parse_overrides([f"{key}={quoted(value)}"])
    except HydraException:
        return f"{shown}: {reason}"
    fits = as_text.value() == value and value[:1] + value[-1:] not in ("[]", "{}")
    return f"{shown}: {reason}; as a text it is {to_type(key, value)}" if fits else f"{shown}: {reason}"


def several_values(override: Override) -> str:
    """Return what to do about a sweep where none was asked for."""
    key, value = override.get_key_element(), str(override.input_line).partition("=")[2]
    as_list = f", for a list type {shlex.quote(f'{key}=[{value}]')}" if "," in value else ""
    as_text = f"for a text type {to_type(key, value)}"
    return f"{override.input_line}: several values: for a sweep add --multirun{as_list}, {as_text}"


def search_path(overrides: Sequence[Override], config_directory: str | None) -> list[str]:
    """Return where configurations are searched besides our own: what ``hydra.searchpath`` and ``--config-dir`` name."""
    found: list[str] = []
    for override in overrides:
        if override.key_or_group == "hydra.searchpath" and isinstance(value := override.value(), list):
            found += map(str, value)
    if config_directory is not None:
        found.append(f"file://{Path(config_directory).absolute()}")
    return found


def spelt_out(override: Override) -> str:
    """Return the override in words that mean the same whoever reads them, and how often: names that look like numbers
    as texts, what is to be shuffled as it was shuffled now.
    """
    line, key = str(override.input_line), override.get_key_element()
    value, written = override.value(), line.partition("=")[2].strip()
    if override.type != OverrideType.DEL and override.key_or_group in _TEXTS:
        if _is_number(value):
            return f"{key}={quoted(written)}"
        if override.value_type == ValueType.SIMPLE_CHOICE_SWEEP and isinstance(value, ChoiceSweep):
            parts = [part.strip() for part in written.split(",")]
            if len(parts) == len(value.list):
                both = zip(parts, value.list, strict=True)
                return f"{key}={','.join(quoted(part) if _is_number(read) else part for part, read in both)}"
    if re.search(r"shuffle\s*\(", written):
        if isinstance(value, ChoiceSweep | RangeSweep):
            return f"{key}={','.join(override.sweep_string_iterator())}"
        if isinstance(value, list):  # shuffled as it was read
            return f"{key}={override.get_value_element_as_str()}"
    return line


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
