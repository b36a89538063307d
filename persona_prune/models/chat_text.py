"""Prompts and answers as the chat template and the tokenizer see them."""

from collections.abc import Mapping, Sequence
from typing import Any


def chat_prompt(tokenizer: Any, prompt: str, before: Sequence[Mapping[str, str]] = ()) -> str:
    """Return ``prompt``, after the messages ``before`` it, as the chat template renders it, ready for the answer."""
    return render_chat(tokenizer, [*before, {"role": "user", "content": prompt}])


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, answer_next: bool = True) -> str:
    """Return messages as the chat template renders them; templates that can think before they answer don't."""
    text = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=answer_next, enable_thinking=False
    )
    return str(text)


def answer_lead(tokenizer: Any) -> str:
    """Return what the chat template puts between prompt and answer, such as the space after Llama 2's ``[/INST]``."""
    messages = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": "Answer"}]
    whole, prompt = render_chat(tokenizer, messages, answer_next=False), chat_prompt(tokenizer, "Question")
    lead, found, _ = whole[len(prompt) :].partition("Answer")
    return lead if found and whole.startswith(prompt) and not lead.strip() else ""


def encode_answer(tokenizer: Any, context: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return token ids of ``context`` and of ``answer`` after it.

    The boundary is where the context's own tokens end; if joining the two merges tokens across it, both are encoded
    on their own.
    """
    head = tuple(tokenizer(context, add_special_tokens=False).input_ids)
    whole = tuple(tokenizer(context + answer, add_special_tokens=False).input_ids)
    if whole[: len(head)] == head:
        return head, whole[len(head) :]
    return head, tuple(tokenizer(answer, add_special_tokens=False).input_ids)
