"""What W&B takes: lengths and characters of names, and its environment variables; known without importing it."""

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_cache_path
from pydantic import AfterValidator, Field

Mode = Literal["online", "offline", "disabled"]

LONGEST_NAME = 128
"""Of a run, group, project or artifact, in characters; W&B's server refuses longer ones."""

LONGEST_TAG = 64

_MODES: Mapping[str, Mode] = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
"""W&B's modes and their former names -> what they are here."""

_PROJECT_LACKS = "/\\#?%:"
OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM")
"""Variables that name one run."""

_UNREAD = ("WANDB_API_KEY", "WANDB_MODE")  # a key is nothing to look at, and modes are read here


def _project(name: str) -> str:
    found = sorted({character for character in name if character in _PROJECT_LACKS})
    if found:
        raise ValueError(f"W&B takes no {' '.join(found)} in the name of a project")
    return name


def _entity(name: str) -> str:
    if "/" in name:
        raise ValueError("W&B takes no / in the name of a user or team; the project is named by tracker.project")
    return name


Project = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_project)]
Entity = Annotated[str, Field(min_length=1), AfterValidator(_entity)]
Tag = Annotated[str, Field(min_length=1, max_length=LONGEST_TAG)]


def shortened(name: str, longest: int) -> str:
    """Return a name of at most ``longest`` characters; of a longer one the beginning, and a hash of the whole."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 7]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def wanted_mode() -> Mode | None:
    """Return what ``WANDB_MODE`` asks for, in any case; None where it says nothing.

    Raises:
        ValueError: it is no mode that can be had here.
    """
    wanted = os.environ.get("WANDB_MODE", "").strip()
    if wanted and wanted.lower() not in _MODES:
        raise ValueError(f"WANDB_MODE={wanted}: must be online, offline (or dryrun) or disabled")
    return _MODES[wanted.lower()] if wanted else None


def check_environment() -> None:
    """Raise ValueError, in one line, where W&B would refuse an environment variable."""
    wanted_mode()
    given = {name: value for name, value in os.environ.items() if name.startswith("WANDB_") and name not in _UNREAD}
    if not given:
        return
    import wandb
    from pydantic import ValidationError

    for some in (*({name: value} for name, value in given.items()), given):
        shown = ", ".join(f"{name}={value}" for name, value in some.items())
        try:
            wandb.Settings().update_from_env_vars(some)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            raise ValueError(f"{shown}: {reason}") from None
        except wandb.Error as error:
            raise ValueError(f"{shown}: {' '.join(str(error).split())}") from None


@contextmanager
def environment(*, one_of_several: bool) -> Iterator[None]:
    """Let W&B see its environment variables as it understands them.

    Modes are spelt as it spells them. What names one run doesn't reach the jobs of a sweep, which would all write that
    one. And where the user's cache can't be written, its logs go elsewhere: it would print them.
    """
    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    mode = wanted_mode()
    if mode is not None:
        os.environ["WANDB_MODE"] = mode
    if one_of_several:
        for name in OF_ONE_RUN:
            os.environ.pop(name, None)
    if "WANDB_CACHE_DIR" not in os.environ and not _writable(user_cache_path("wandb")):
        os.environ["WANDB_CACHE_DIR"] = _cache_for_now()
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(before)


@functools.cache
def _cache_for_now() -> str:
    directory = tempfile.mkdtemp(prefix="wandb-cache-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _writable(directory: Path) -> bool:
    while not os.path.lexists(directory) and directory.parent != directory:
        directory = directory.parent
    return os.access(directory, os.W_OK)
