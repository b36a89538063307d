"""Greedy answers of a model as it stands, in padded batches."""

from collections.abc import Callable, Sequence

import torch

from persona_prune.models import LoadedModel


@torch.inference_mode()
def greedy_answers(
    loaded: LoadedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> list[tuple[int, ...]]:
    """Return the greedy answers to ``prompts`` (token ids), as token ids without the end token.

    An answer is never empty: a model that ends at once is given back its end token.
    """
    model, pad = loaded.model, loaded.tokenizer.pad_token_id
    ends = model.generation_config.eos_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    answers: list[tuple[int, ...]] = [()] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + list(prompts[i]) for i in chosen])
        attention = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=attention.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            pad_token_id=pad,
        )
        for i, row in zip(chosen, output[:, width:].tolist(), strict=True):
            stop = next((at for at, token in enumerate(row) if token in ends), len(row))
            answers[i] = tuple(row[: max(stop, 1)])
        on_batch(len(chosen))
    return answers
