"""Commands: what comes of their errors, and command lines of ``key=value`` arguments."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from persona_prune.common.errors import one_line
from persona_prune.common.validation import neighbours

FROM_TEXT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Configuration of a dataclass that is read from text: ``"0.7"`` is a number, ``"true"`` is true."""

Settings = TypeVar("Settings")


def from_key_values(target: type[Settings], arguments: Sequence[str]) -> Settings:
    """Return the dataclass that ``key=value`` arguments describe.

    Raises:
        ValueError: an argument is no ``key=value``, a key is unknown, missing or given twice, or a value impossible.
    """
    fields = {field.name: field for field in dataclasses.fields(target)}  # type: ignore[arg-type]
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument}: expected key=value, with a key of {', '.join(fields)}")
        if key not in fields:
            raise ValueError(f"{key}: unknown key; {neighbours(key, fields)}")
        if key in given:
            raise ValueError(f"{key}: given twice")
        given[key] = value
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise ValueError(f"{name}: no value; give one with {name}=...")
    try:
        return TypeAdapter(target).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise ValueError(f"{where}={first['input']}: {message}" if where else message) from None


def run(body: Callable[[], int | None]) -> int:
    """Run the body of a command and return its exit code, or 0.

    Bad input (ValueError, OSError) is 2, a failure (RuntimeError, MemoryError, ArithmeticError) 1, an interrupt 130,
    each with one line on stderr.
    """
    try:
        return body() or 0
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError, ArithmeticError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_command(
    target: type[Settings], arguments: Sequence[str], help_text: str, body: Callable[[Settings], int | None]
) -> int:
    """Read ``key=value`` arguments and run the body with them; return the exit code (`run`)."""
    if set(arguments) & {"-h", "--help"}:
        print(help_text.strip())
        return 0
    return run(lambda: body(from_key_values(target, arguments)))
