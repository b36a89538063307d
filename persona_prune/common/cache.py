"""Everything that can be made again: where it is kept, and how a file is written whole or not at all."""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path
from safetensors import SafetensorError

from persona_prune.common.errors import one_line

log = logging.getLogger(__name__)


def cache_root() -> Path:
    """Return the directory of all caches: ``PERSONA_PRUNE_CACHE`` or the user's cache home."""
    configured = os.environ.get("PERSONA_PRUNE_CACHE")
    return Path(configured).expanduser() if configured else user_cache_path("persona_prune")


def cache_path(kind: str, key: object, suffix: str = ".safetensors") -> Path:
    """Return where what ``key`` stands for is kept.

    Args:
        kind: the folder: signatures, masks, dense, neutral.
        key: everything that what is kept depends on, as JSON values.
        suffix: of the file.
    """
    return cache_root() / kind / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}{suffix}"


def kept(path: Path) -> bool:
    """Return whether the file is there; where a cache may not be read, nothing is."""
    try:
        return path.is_file()
    except OSError:
        return False


def store(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make the file at ``path``; a cache that can't be written is a warning, and leaves nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            write(partial)
    # safetensors says "no space left on device" in an exception of its own.
    except (OSError, SafetensorError) as error:
        log.warning("cannot write to the cache (%s): going on without it", one_line(error))


def store_json(path: Path, content: object) -> None:
    """Keep JSON values; see `store`. Numbers that are not finite are no result, and never kept."""
    try:
        text = json.dumps(content, allow_nan=False)
    except ValueError:
        log.warning("not kept in the cache: some of the figures are no numbers")
        return
    store(path, lambda partial: partial.write_text(text, encoding="utf-8"))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a file beside ``path`` to write to; it takes the place of ``path`` if the body succeeds."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno is not None:  # else the path would take the place of the message
            error.filename = error.filename or str(path)  # a full disk is told without the place
        raise
    finally:
        partial.unlink(missing_ok=True)
