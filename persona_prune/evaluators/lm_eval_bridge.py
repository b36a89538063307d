"""The bridge to lm-eval: our models behind its interface, scored with the prompt of several options computed once."""

import contextlib
import io
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch

from persona_prune.common.progress import Progress
from persona_prune.models.chat_text import encode_answer, render_chat
from persona_prune.models.control_tokens import quoted, refuse_control_tokens
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Row

# lm-eval logs configuration advice on import and on every task; what matters reaches the user through our log.
logging.getLogger("lm_eval").setLevel(logging.ERROR)

from lm_eval.evaluator import evaluate  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

_OPTIONS_PER_ROW = 8
_TOKENS_PER_ROW = 1024  # of the options together: longer ones go into rows of their own
_SEED = 1234  # of numpy, torch and few-shot examples in the lm_eval command, which seeds Python's generator with 0


class SharedPromptLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model, except that options of one prompt are scored in one packed row.

    The boundary between prompt and option is that of `likelihood.encode_answer`: upstream moves the newline that ends
    a chat prompt into the option, which would add a token to every option.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int, begin: Callable[[int], Callable[[int], object]]) -> None:
        """Wrap ``loaded``; ``begin(total)`` is called before every pass and returns what is told of every batch."""
        super().__init__(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size)
        self._begin = begin
        self._loaded = loaded
        self._before = loaded.before

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render as everywhere else in this package, after what a baseline puts before the question.

        Without ``add_generation_prompt`` the last message is how the answer begins. A system message is left out, as
        upstream does, where the template has no such role.
        """
        asked = [message["content"] for message in chat_history if message["role"] == "user"][-1]
        start = "" if add_generation_prompt else chat_history[-1]["content"]
        turns = [*self._before(asked), *(chat_history if add_generation_prompt else chat_history[:-1])]
        system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
        turns = [turn for turn in turns if turn["role"] != "system"]
        if system:
            with contextlib.suppress(jinja2.TemplateError):
                return render_chat(self.tokenizer, [{"role": "system", "content": system}, *turns]) + start
        return render_chat(self.tokenizer, turns) + start

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        prompt, answer = encode_answer(self.tokenizer, context, continuation)
        return list(prompt), list(answer)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        grouped: dict[tuple[int, ...], list[int]] = {}
        for number, (_, prompt, option) in enumerate(requests):
            # As upstream: what is too long for the model loses its beginning; the last token is never read.
            room = max(1, self.max_length + 1 - len(option))
            grouped.setdefault(tuple(prompt[-room:]), []).append(number)
        # Rows stay short where many items ask the same: attention grows with the square of a row.
        options = [
            (prompt, part)
            for prompt, numbers in grouped.items()
            for part in _parts(numbers, [len(requests[number][2]) for number in numbers])
        ]
        rows = [Row(prompt, tuple(tuple(requests[n][2]) for n in numbers)) for prompt, numbers in options]
        # Running text comes in many small calls, whose caller keeps the bar.
        advance = self._begin(len(rows)) if override_bs is None else lambda rows_done: None
        answers = score(self._loaded, rows, override_bs or int(self.batch_size), advance)
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for (_, numbers), row_answers in zip(options, answers, strict=True):
            for number, answer in zip(numbers, row_answers, strict=True):
                greedy = answer.likeliest.tolist() == list(requests[number][2])
                results[number] = (answer.log_probs.double().sum().item(), greedy)
        return results


def _parts(numbers: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    part: list[int] = []
    tokens = 0
    for number, length in zip(numbers, lengths, strict=True):
        if part and (len(part) == _OPTIONS_PER_ROW or tokens + length > _TOKENS_PER_ROW):
            yield part
            part, tokens = [], 0
        part.append(number)
        tokens += length
    yield part


class TaskLM(SharedPromptLM):
    """For tasks of any kind: text becomes tokens as upstream has it, so that figures are those of the lm_eval command.

    Without a chat template, the messages that a baseline puts before a question stand before it as paragraphs, and
    control tokens of the task's own are the task's.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int, chat: bool, begin: Callable[[int], Any]) -> None:
        """Wrap ``loaded``; ``chat`` says whether requests come through the chat template."""
        super().__init__(loaded, batch_size, begin)
        self._chat = chat
        self._advance: Callable[[int], object] = lambda done: None

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if self._chat:
            refuse_control_tokens(self.tokenizer, continuation, f"the answer {quoted(continuation)}")
        prompt, answer = HFLM._encode_pair(self, self._in_context(context), continuation)
        return list(prompt), list(answer)

    def tok_batch_encode(self, strings: list[str], *args: Any, **options: Any) -> Any:
        """Encode the prompts of answers to be generated."""
        return super().tok_batch_encode([self._in_context(string) for string in strings], *args, **options)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of whole texts."""
        advance, size, results = self._begin(len(requests)), int(self.batch_size), list[float]()
        for start in range(0, len(requests), size):
            results += super().loglikelihood_rolling(requests[start : start + size], disable_tqdm=True)
            advance(len(requests[start : start + size]))
        return results

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the generated answers."""
        self._advance = self._begin(len(requests))
        answers: list[str] = super().generate_until(requests, disable_tqdm=True)
        return answers

    def _model_generate(self, context: torch.Tensor, **options: Any) -> torch.Tensor:
        generated: torch.Tensor = super()._model_generate(context=context, **options)
        self._advance(len(context))
        return generated

    def _in_context(self, text: str) -> str:
        before = [] if self._chat else [message["content"] for message in self._before(text)]
        return "\n\n".join([*before, text])


def multiple_choice(
    loaded: LoadedModel,
    items: list[dict[str, Any]],
    *,
    batch_size: int,
    on_batch: Callable[[int], object],
) -> list[list[float]]:
    """Return, item by item, the summed log-probability of every option, from an lm-eval multiple-choice task.

    Args:
        loaded: the model as it stands; its chat template renders the prompt.
        items: mappings with ``prompt``, ``options`` (texts) and ``gold`` (index).
        batch_size: prompts per batch.
        on_batch: called with the number of prompts done.
    """
    from datasets import Dataset

    task = {
        "task": "persona_choice",
        # lm-eval calls this instead of load_dataset; the items never touch the disk.
        "custom_dataset": lambda **_: {"test": Dataset.from_list(items)},
        "dataset_path": "in_memory",
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "options",
        "doc_to_target": "gold",
        # Nothing between prompt and option: the chat template ends where the answer begins.
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
        "num_fewshot": 0,
    }
    lm = SharedPromptLM(loaded, batch_size, lambda total: on_batch)
    # Without the defaults: indexing lm-eval's thousands of tasks takes longer than the evaluation.
    tasks = TaskManager(include_defaults=False).load([task])
    # Only lm-eval's own progress bars go to stderr here; ours was opened before.
    with contextlib.redirect_stderr(io.StringIO()):
        results = evaluate(lm=lm, task_dict=tasks, apply_chat_template=True, bootstrap_iters=0, log_samples=True)
    samples = sorted(results["samples"]["persona_choice"], key=lambda sample: int(sample["doc_id"]))
    return [[float(total) for total, _ in sample["filtered_resps"]] for sample in samples]


def task_index(directories: Sequence[Path], *, stock: bool, metadata: Mapping[str, Any]) -> Any:
    """Return lm-eval's `TaskManager` of the YAML files in ``directories``, with or without its own tasks."""
    return TaskManager(include_path=list(directories), include_defaults=stock, metadata=dict(metadata))


def load_task(manager: Any, name: str, num_fewshot: int | None) -> dict[str, dict[str, Any]]:
    """Return ``tasks`` and ``groups`` (name -> object) of a task, group or tag, with their data.

    Raises:
        Exception: whatever the task's own code or the hub raises.
    """
    with _quietly(), _seeded():
        loaded = manager.load([name])
    for task in loaded["tasks"].values():
        # As in the lm_eval command: a task that says 0 means it.
        own = task.get_config("num_fewshot")
        if own is None or (own != 0 and num_fewshot is not None):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
    return {key: dict(loaded.get(key, {})) for key in ("tasks", "groups")}


def task_requests(task: Any, limit: int | None) -> list[tuple[int, Any, str]]:
    """Return (number of the document, its question, what is asked of a model and the expected answer) by request.

    The question is a text, or None where a task has none of its own. No chat template is applied.
    """
    with _quietly(), _seeded():
        task.set_fewshot_seed(_SEED)
        task.build_all_requests(limit=limit)
        return [
            (
                request.doc_id,
                text if isinstance(text := task.doc_to_text(request.doc), str) else None,
                repr((request.request_type, request.args, task.doc_to_target(request.doc))),
            )
            for request in task.instances
        ]


def run_tasks(
    loaded: LoadedModel,
    tasks: Mapping[str, Mapping[str, Any]],
    *,
    limit: int | None,
    batch_size: int,
    chat: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Return lm-eval's results, with samples, of tasks from `load_task` on the model as it stands.

    Seeds and few-shot examples are those of the lm_eval command, the same for every model.
    """
    terminal = sys.stderr

    def begin(total: int) -> Callable[[int], object]:
        with contextlib.redirect_stderr(terminal):
            return progress("lm_eval", total)

    lm = TaskLM(loaded, batch_size, chat, begin)
    with _quietly(), _seeded():
        for task in tasks["tasks"].values():
            task.set_fewshot_seed(_SEED)
        results: dict[str, Any] = evaluate(
            lm=lm,
            task_dict=dict(tasks),
            limit=limit,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            bootstrap_iters=0,
            log_samples=True,
        )
    return results


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep lm-eval's bars, and the hub's reports of every retry, from the terminal."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        hub.setLevel(level)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Seed as the lm_eval command does, and leave all generators as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(0)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
