"""Any lm-evaluation-harness task on the model in memory: those of `persona_prune.tasks`, stock ones, the user's."""

import difflib
import functools
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, PositiveInt
from persona_prune.evaluators.base import AtOnce
from persona_prune.evaluators.results import EvalResult
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.pairs import normalise
from persona_prune.personas.persona import AnyPersona

log = logging.getLogger(__name__)

_OWN_TASKS = Path(__file__).parent.parent / "tasks"
_POLAR = ("ai_persona", "model_written_evals")  # tasks on files, where the matching answer is the persona's
_LARGEST = 1e300


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LMEval(AtOnce):
    """Tasks of lm-eval, with the seeds, few-shot examples and token boundaries of the ``lm_eval`` command.

    Metrics are lm-eval's, ``<task>/<metric>``, with ``_<filter>`` where a task filters answers: by document where the
    task's figure is their mean, else (perplexity, F1, groups of tasks) for the whole. lm-eval's caches are off, so no
    mask is ever served another's answers.

    Attributes:
        tasks: names of tasks, groups or tags; null for ``persona_<name>`` of the persona or of every part of a mix.
        include_path: a directory with YAML tasks of the user's, or null.
        metadata: what tasks ask for by name, such as the path of a file; null for nothing.
        num_fewshot: examples before every question, unless the task says 0; null for what the task says.
        apply_chat_template: render questions, and few-shot examples as turns, by the chat template.
        limit: use the first so many documents of every task; null for all.
        batch_size: prompts per batch.
    """

    measures_alignment: ClassVar[bool] = True

    tasks: Annotated[list[str], Field(min_length=1)] | None
    include_path: str | None
    metadata: dict[str, Any] | None
    num_fewshot: Annotated[int, Field(ge=0)] | None
    apply_chat_template: bool
    limit: PositiveInt | None
    batch_size: PositiveInt

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError or OSError if a task is not known, can't be had with its data, or shows the other pole."""
        polar = [task for task in self.tasks or [] if task in _POLAR]
        if persona.flip and polar:
            raise ValueError(
                f"{polar[0]} takes the matching answers of its file for the persona's, and persona.flip=true asks for "
                "the others: use evaluator=choice or multiple_choice, which turn them"
            )
        self._load(persona)

    def prompts(self, persona: AnyPersona) -> set[str]:
        """Return the normalised questions of all documents."""
        return set(self._load(persona).prompts)

    def identity(self, persona: AnyPersona) -> object:
        """Return settings and a hash of everything that is asked."""
        return [self.apply_chat_template, self.batch_size, self._load(persona).digest]

    def evaluate(
        self, loaded: LoadedModel, persona: AnyPersona, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Run the tasks; see the class for the metrics."""
        from persona_prune.evaluators.lm_eval_bridge import run_tasks

        tasks = self._load(persona).tasks
        results = run_tasks(
            loaded,
            tasks,
            limit=self.limit,
            batch_size=self.batch_size,
            chat=self.apply_chat_template,
            progress=progress,
        )
        samples: list[dict[str, Any]] = []
        metrics: dict[str, float] = {}
        for name, task in tasks["tasks"].items():
            rows = _samples(name, task, results["samples"][name])
            samples += rows
            by_item = {metric for row in rows for metric in row["values"]}
            metrics |= {m: v for m, v in _aggregated(name, results["results"][name]).items() if m not in by_item}
        for name in tasks["groups"]:
            metrics |= _aggregated(name, results["results"].get(name, {}))
        return EvalResult(samples, metrics)

    def _load(self, persona: AnyPersona) -> "_Loaded":
        names = tuple(self.tasks) if self.tasks is not None else _own_tasks(persona)
        directory = None if self.include_path is None else Path(self.include_path).expanduser()
        if directory is not None and not directory.is_dir():
            raise FileNotFoundError(f"evaluator.lm_eval.include_path: no directory at {directory}")
        metadata = json.dumps(self.metadata or {}, sort_keys=True)
        return _load(names, directory, _content(directory, self.metadata or {}), metadata, self.num_fewshot, self.limit)


@plain_dataclass(frozen=True)
class _Loaded:
    """lm-eval's ``tasks`` and ``groups`` with their data, the normalised questions, and a hash of all that is asked."""

    tasks: Mapping[str, Mapping[str, Any]]
    prompts: frozenset[str]
    digest: str


@functools.lru_cache(maxsize=4)
def _load(
    names: tuple[str, ...],
    directory: Path | None,
    content: str,
    metadata: str,
    num_fewshot: int | None,
    limit: int | None,
) -> _Loaded:
    """Load tasks once while the user's files (``content``) are unchanged: checks and stages ask for them several times.

    Raises:
        ValueError: an unknown task, or one that cannot be run or loaded.
        OSError: its data is not on this machine, and the hub can't be reached.
    """
    from persona_prune.evaluators.lm_eval_bridge import load_task, task_requests

    manager = _manager(names, [_OWN_TASKS, *([directory] if directory else [])], json.loads(metadata))
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}}
    for name in names:
        try:
            found = load_task(manager, name, num_fewshot)
        except Exception as error:
            # A task is code and data of other people's: it may raise anything.
            raise _no_data(name, sorted(_leaves(manager.task_index, name)[1]), error) from error
        for kind, objects in found.items():
            loaded[kind] |= objects
    digest = hashlib.sha256(importlib.metadata.version("lm_eval").encode())
    for file in sorted(directory.rglob("*")) if directory else ():
        if file.suffix in (".yaml", ".py"):
            digest.update(file.read_bytes())
    prompts = set()
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise ValueError(
                f"task {name} runs code that the model writes, or shows it pictures or sound: not supported"
            )
        for number, question, request in task_requests(task, limit):
            digest.update(f"{name}/{number} v{task.VERSION}: {request}".encode())
            if question is not None:
                prompts.add(normalise(question))
    return _Loaded(loaded, frozenset(prompts), digest.hexdigest())


def _manager(names: tuple[str, ...], directories: list[Path], metadata: Mapping[str, Any]) -> Any:
    """Return an index that has all ``names``, with lm-eval's own tasks only where they are needed."""
    from persona_prune.evaluators.lm_eval_bridge import task_index

    manager = task_index(directories, stock=False, metadata=metadata)
    if any(_leaves(manager.task_index, name)[0] for name in names):
        log.info("lm-eval: looking through its own tasks, which takes a while")
        manager = task_index(directories, stock=True, metadata=metadata)
    unknown = [name for name in names if name not in manager.task_index]
    if unknown:
        close = [difflib.get_close_matches(name, manager.task_index, n=3, cutoff=0.6) for name in unknown]
        hints = [f"; did you mean {' or '.join(found)}?" if found else "" for found in close]
        told = ", ".join(f"no task {name}{hint}" for name, hint in zip(unknown, hints, strict=True))
        raise ValueError(f"{told} (lm_eval ls tasks lists lm-eval's, {_OWN_TASKS} has this project's)")
    return manager


def _leaves(index: Mapping[str, Any], name: str) -> tuple[set[str], set[str]]:
    """Return the names that ``index`` lacks, and the datasets, of a task or of everything in a group or tag."""
    entry = index.get(name)
    if entry is None:
        return {name}, set()
    config = entry.cfg or {}
    members = set(entry.tags) if entry.kind.name == "TAG" else set()
    if entry.kind.name == "GROUP":
        members = set(_members(config.get("task")))
    missing, datasets = set[str](), {str(config["dataset_path"])} if "dataset_path" in config else set[str]()
    for member in members - {name}:
        found = _leaves(index, member)
        missing, datasets = missing | found[0], datasets | found[1]
    return missing, datasets


def _members(listed: object) -> Iterator[str]:
    """Yield the names in a group's list; what it defines on the spot has a configuration of its own."""
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, str):
            yield item
        elif isinstance(item.get("task"), list):
            yield from _members(item["task"])
        elif "dataset_path" not in item:
            yield str(item.get("task", item.get("group")))


def _no_data(name: str, datasets: list[str], error: Exception) -> ValueError | OSError:
    told = " ".join(str(error).split())[:300]
    data = f" (dataset {', '.join(datasets[:3])}{', ...' if len(datasets) > 3 else ''})" if datasets else ""
    if isinstance(error, ConnectionError):
        return OSError(
            f"task {name}{data}: its data is not on this machine and the hub can't be reached; fetch it once with a "
            "network, or give a task that reads a copy on disk with evaluator.lm_eval.include_path=DIR"
        )
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return ValueError(f"task {name}{data}: {kind}{told}")


def _own_tasks(persona: AnyPersona) -> tuple[str, ...]:
    """Return the names of the persona's tasks; a flipped one asks for its opposite."""
    names = [part.opposite if part.flip else part.name for part, _ in persona.parts]
    tasks = [f"persona_{name}" for name in names]
    if not all((_OWN_TASKS / f"{task}.yaml").is_file() for task in tasks):
        raise ValueError(f"persona {persona.name} has no task of its own: name some with evaluator.lm_eval.tasks=[...]")
    return tuple(tasks)


def _content(directory: Path | None, metadata: Mapping[str, Any]) -> str:
    """Return what changes with the files of ``directory`` and those that ``metadata`` names: their sizes and times."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()] if directory else []
    files += [path for value in metadata.values() if (path := Path(str(value)).expanduser()).is_file()]
    stats = [(str(path), path.stat()) for path in files]
    return json.dumps([(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats])


def _samples(name: str, task: Any, logged: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one sample a document; lm-eval logs one a document and filter."""
    from lm_eval.api.metrics import mean

    samples: dict[Any, dict[str, Any]] = {}
    for row in sorted(logged, key=lambda row: int(row["doc_id"])):
        answers, asked = row["filtered_resps"], row["arguments"]
        sample = samples.setdefault(
            row["doc_id"],
            {"id": f"{name}/{row['doc_id']}", "task": name, "prompt": str(asked[0][0]), "values": {}},
        )
        if all(isinstance(answer, tuple | list) and len(answer) == 2 for answer in answers):
            sample["options"] = [str(request[1]) for request in asked]
            sample["log_prob"] = [float(answer[0]) for answer in answers]
        else:
            sample[_column("answer", row["filter"])] = [str(answer) for answer in answers]
        sample["target"] = row["target"] if isinstance(row["target"], int | str) else str(row["target"])
        for metric in row["metrics"]:
            if task.aggregation().get(metric, mean) is mean and isinstance(row[metric], int | float):
                sample["values"][f"{name}/{_column(metric, row['filter'])}"] = float(row[metric])
    return list(samples.values())


def _aggregated(name: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """Return lm-eval's figures of a task or group; an infinite perplexity as 1e300, as everywhere."""
    found = {}
    for key, value in figures.items():
        metric, comma, chosen = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            found[f"{name}/{_column(metric, chosen)}"] = min(float(value), _LARGEST)
    return found


def _column(metric: str, chosen: str) -> str:
    return metric if chosen == "none" else f"{metric}_{chosen}"
