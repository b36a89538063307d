"""The bridge to lm-eval: our models behind its interface, scored with the prompt of several options computed once."""

import contextlib
import io
import logging
from collections.abc import Callable
from typing import Any

from persona_prune.likelihood import Row, encode_answer, render_chat, score
from persona_prune.models import LoadedModel

# lm-eval logs configuration advice on import and on every task; what matters reaches the user through our log.
logging.getLogger("lm_eval").setLevel(logging.ERROR)

from lm_eval.evaluator import evaluate  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

_OPTIONS_PER_ROW = 8


class SharedPromptLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model, except that options of one prompt are scored in one packed row.

    The boundary between prompt and option is that of `likelihood.encode_answer`: upstream moves the newline that ends
    a chat prompt into the option, which would add a token to every option.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int, on_batch: Callable[[int], object]) -> None:
        super().__init__(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size)
        self._on_batch = on_batch
        self._before = loaded.before

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render as everywhere else in this package, after what a baseline puts before the question."""
        history = [*self._before(chat_history[-1]["content"]), *chat_history]
        return render_chat(self.tokenizer, history, answer_next=add_generation_prompt)

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
        for number, (_, prompt, _) in enumerate(requests):
            grouped.setdefault(tuple(prompt), []).append(number)
        # Rows stay short where many items ask the same: attention grows with the square of a row.
        options = [
            (prompt, numbers[start : start + _OPTIONS_PER_ROW])
            for prompt, numbers in grouped.items()
            for start in range(0, len(numbers), _OPTIONS_PER_ROW)
        ]
        rows = [Row(prompt, tuple(tuple(requests[n][2]) for n in numbers)) for prompt, numbers in options]
        answers = score(
            self.model,
            rows,
            pad_id=self.tokenizer.pad_token_id,
            batch_size=override_bs or int(self.batch_size),
            on_batch=self._on_batch,
        )
        results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for (_, numbers), row_answers in zip(options, answers, strict=True):
            for number, answer in zip(numbers, row_answers, strict=True):
                results[number] = (answer.log_probs.double().sum().item(), bool(answer.likeliest.all()))
        return results


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
    lm = SharedPromptLM(loaded, batch_size, on_batch)
    # Without the defaults: indexing lm-eval's thousands of tasks takes longer than the evaluation.
    tasks = TaskManager(include_defaults=False).load([task])
    # Only lm-eval's own progress bars go to stderr here; ours was opened before.
    with contextlib.redirect_stderr(io.StringIO()):
        results = evaluate(lm=lm, task_dict=tasks, apply_chat_template=True, bootstrap_iters=0, log_samples=True)
    samples = sorted(results["samples"]["persona_choice"], key=lambda sample: int(sample["doc_id"]))
    return [[float(total) for total, _ in sample["filtered_resps"]] for sample in samples]
