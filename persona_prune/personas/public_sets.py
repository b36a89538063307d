"""Public sets of questions: found on the hub or on disk, and read by their own parsers."""

import functools
import glob
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from persona_prune.common.row_files import csv_rows, json_document, jsonl_rows
from persona_prune.common.text_files import read_text, unencodable
from persona_prune.personas.pairs import Question
from persona_prune.personas.persona import AnyPersona
from persona_prune.personas.public_formats import PARSERS, Format, Found, SourceRow

log = logging.getLogger(__name__)


_HUB_TIMEOUT = 4.0  # seconds to wait for the hub's first answer
_POLES = {
    "extraversion": ("extrovert", "introvert"),
    "introversion": ("introvert", "extrovert"),
    "intuition": ("intuitive", "sensor"),
    "sensing": ("sensor", "intuitive"),
    "feeling": ("feeler", "thinker"),
    "thinking": ("thinker", "feeler"),
    "judging": ("judger", "perceiver"),
    "perceiving": ("perceiver", "judger"),
    "power": ("power_seeking", "power_rejecting"),
    "wealth": ("wealth_seeking", "wealth_rejecting"),
    "hallucination": ("making_things_up", "honest_about_not_knowing"),
    "desire-for-acquiring-power": ("power_seeking", "power_rejecting"),
    "desire-for-acquiring-wealth": ("wealth_seeking", "wealth_rejecting"),
    "power-seeking-inclination": ("power_seeking", "power_rejecting"),
    "wealth-seeking-inclination": ("wealth_seeking", "wealth_rejecting"),
    "openness": ("high_openness", "low_openness"),
    "conscientiousness": ("high_conscientiousness", "low_conscientiousness"),
    "agreeableness": ("high_agreeableness", "low_agreeableness"),
    "neuroticism": ("low_emotional_stability", "high_emotional_stability"),
}
"""How the name of a set's part begins -> the persona its matching answers show, and that of the other answers."""


def shows_opposite(name: str, persona: AnyPersona) -> bool:
    """Return whether the matching answers of the part ``name`` show the opposite of ``persona``, as far as is known."""
    shown, other = _POLES.get(name.rpartition("/")[2].partition("_")[0].casefold(), (None, None))
    return shown is not None and any(part.name == other or part.opposite == shown for part, _ in persona.parts)


def read_questions(
    format: Format, dataset: str | None, revision: str | None, name: str, path: str | None, option: str
) -> tuple[Question, ...]:
    """Return the questions of a set, from ``path`` or else from the hub, by the same parser; arguments as of `HubSet`.

    Files in the hub cache are used without asking the hub. The persona's option is often the first: permute the options
    before asking by position. Questions with an empty text or a repeated option are left out with a warning.

    Raises:
        OSError: no such file, or the hub can't be had; the message says to use ``option`` (such as `calibration.path`).
        ValueError: the name is not in the set, or a row is malformed; the message names file and line or row.
    """
    wanted = _wanted(format, name)
    if path is not None:
        root = Path(path).expanduser()
        files = [root] if root.is_file() else _matching(root, wanted)
        if not files:
            raise FileNotFoundError(f"{path}: no such file, nor a directory with {wanted[0][0]} in it")
    elif dataset is not None:
        files = _hub_files(dataset, revision, wanted, f"give a copy on disk with {option}=FILE")
    else:
        raise ValueError(f"no hub copy of {format} is known: give its rows with {option}=FILE")
    return _questions(format, name, tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@functools.lru_cache(maxsize=16)
def _questions(format: Format, name: str, files: tuple[tuple[Path, int, int], ...]) -> tuple[Question, ...]:
    """Parse files once while they are unchanged (time and size): checks and stages ask for them several times."""
    rows = [SourceRow(*row, number) for number, (file, _, _) in enumerate(files) for row in _rows(file)]
    useful: dict[bool, Found] = {True: [], False: []}
    for where, question in PARSERS[format](rows, name):
        texts = {option.strip() for option in question.options} - {""}
        useful[bool(question.prompt.strip()) and len(texts) == len(question.options)].append((where, question))
    if useless := useful[False]:
        log.warning("left out %d questions without different answers, the first at %s", len(useless), useless[0][0])
    if not useful[True]:
        columns = ("script", "target_role", "personality")
        there = sorted({"/".join(str(row.values[key]) for key in columns if key in row.values) for row in rows})
        raise ValueError(f"{files[0][0]}: no questions of {name!r}; it has {', '.join(there[:8]) or 'none'}")
    return tuple(question for _, question in useful[True])


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a Parquet, CSV, JSON Lines or JSON file with their places.

    Some ``.jsonl`` hold one JSON array, and some ``.json`` are JSON Lines.
    """
    place, rows = "line", list[tuple[int, Any]]()
    if file.suffix == ".parquet":
        import pyarrow.parquet  # type: ignore[import-untyped]

        place, rows = "row", list(enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1))
        for number, row in rows:
            for told in filter(None, (unencodable(text) for text in row.values() if isinstance(text, str))):
                raise ValueError(f"{file}, row {number}: {told}")
    elif file.suffix.lower() == ".csv":
        rows += csv_rows(file, read_text(file))
    elif re.match(r"\s*\{.*\}\s*$", text := read_text(file), re.MULTILINE):
        rows += jsonl_rows(file, text)
    else:
        try:
            document = json_document(file, text)
        except ValueError:
            if file.suffix == ".jsonl" and text.lstrip().startswith("{"):
                jsonl_rows(file, text)  # says which row it is
            raise
        listed = document if isinstance(document, list) else _by_role(document, ())
        place, rows = "row", list(enumerate(listed, 1))
    for number, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{file}, {place} {number}: expected an object, got {type(row).__name__}")
        yield f"{file}, {place} {number}", row


def _by_role(node: Any, path: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the questions of CroSS-MR: script -> role -> questions."""
    if isinstance(node, dict) and "Question" in node:
        yield {**node, **dict(zip(("script", "target_role"), path))}
    elif isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _by_role(child, (*path, str(key)))


def _wanted(format: Format, name: str) -> list[tuple[str, ...]]:
    """Return glob patterns of the files to read: the first tuple of which every pattern finds one is taken."""
    if not name.strip() or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"name must be the name of a part of the set, got {name!r}")
    safe, (first, _, second) = glob.escape(name), glob.escape(name).partition("_")
    on_hub: dict[str, list[tuple[str, ...]]] = {
        "ai_persona": [(f"{safe.replace('_', '-')}/train.csv",)],
        "machine_mindset": [(f"en_*_{first}.json", f"en_*_{second}.json")],
        "role_agent_bench": [(f"{safe.partition('/')[0].strip()}/reaction.json",)],
        "trait": [("data/test-*.parquet",)],
    }
    return [(f"{safe}.jsonl",), (f"{safe}.json",), (f"{safe}.csv",), *on_hub.get(format, [])]


def _matching(folder: Path, wanted: Iterable[tuple[str, ...]]) -> list[Path]:
    for patterns in wanted:
        found = [sorted(folder.rglob(pattern), key=lambda file: (len(file.parts), file)) for pattern in patterns]
        if all(found):
            return [files[0] for files in found]
    return []


def _hub_files(dataset: str, revision: str | None, wanted: list[tuple[str, ...]], fix: str) -> list[Path]:
    """Return files of the hub cache, fetching them (and no others) if they are not there."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [start + pattern for group in wanted for pattern in group for start in ("", "*/")]
    get = functools.partial(snapshot_download, dataset, repo_type="dataset", revision=revision, allow_patterns=patterns)
    try:
        files = _matching(Path(get(local_files_only=True)), wanted)
    except LocalEntryNotFoundError:
        files = []
    try:
        if not files:
            # Fails at once, where snapshot_download of a pinned revision (or load_dataset of any) retries for 23 s.
            HfApi().dataset_info(dataset, revision=revision, timeout=_HUB_TIMEOUT)
            files = _matching(Path(get()), wanted)
    except Exception as error:  # connection errors have another base class with every major version of the client
        reason = " ".join(str(error).split())[:200]
        raise OSError(f"cannot get {dataset} from the hub ({type(error).__name__}: {reason}): {fix}") from error
    if not files:
        raise FileNotFoundError(f"{dataset} on the hub has no {' and '.join(wanted[-1])}: {fix}")
    return files
