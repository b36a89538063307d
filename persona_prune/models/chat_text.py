"""Prompts and answers as the chat template and the tokenizer see them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from persona_prune.models.control_tokens import quoted, refuse_control_tokens

_ASKED, _SAID = "Qx7 asks", "Zy4 says"  # what no template says itself
_BRACKETS = (  # what a template may open before an answer, and what closes it
    (re.compile(r"<(\w+)>"), "</{}>"),
    (re.compile(r"\[([A-Z_]+)\]"), "[/{}]"),
    (re.compile(r"<\|START_(\w+)\|>"), "<|END_{}|>"),
    (re.compile(r"<\|begin_of_(\w+)\|>"), "<|end_of_{}|>"),
)


@dataclass(frozen=True)
class _Manner:
    """What a chat template puts around an answer, beside what it renders before one that is still to come.

    Attributes:
        opening: what is missing there until the answer: the assistant's turn itself, or the end of an empty thought.
        lead: white space that belongs to the answer.
        after: what follows the answer.
    """

    opening: str
    lead: str
    after: str


_known: WeakKeyDictionary[Any, dict[str, _Manner]] = WeakKeyDictionary()


def chat_prompt(tokenizer: Any, prompt: str, before: Sequence[Mapping[str, str]] = ()) -> str:
    """Return ``prompt``, after the messages ``before`` it, as the chat template renders it, ready for the answer."""
    return render_chat(tokenizer, [*before, {"role": "user", "content": prompt}])


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, answer_next: bool = True) -> str:
    """Return messages as the chat template renders them; templates that can think before they answer don't.

    With ``answer_next`` the text ends where the answer begins, as it does in the template's own rendering of an answer
    that was given: also where the template takes no notice of ``add_generation_prompt``, or opens a thought.

    Raises:
        ValueError: the template opens something and nothing says how it is closed (`check_template`), or a message
            holds one of the tokenizer's control tokens, which would be obeyed.
        jinja2.TemplateError: it refuses these messages.
    """
    for message in messages:
        refuse_control_tokens(
            tokenizer, message["content"], f"the {message['role']} message {quoted(message['content'])}"
        )
    text = _rendered(tokenizer, messages, answer_next=answer_next)
    return text + _manner(tokenizer).opening if answer_next else text


def answer_lead(tokenizer: Any) -> str:
    """Return what the chat template puts between prompt and answer, such as the space after Llama 2's ``[/INST]``."""
    return _manner(tokenizer).lead


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the token by which the chat template ends an answer, before whatever comes next; None if there is none."""
    after = _manner(tokenizer).after.lstrip()
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    ends = [content for content in added if content.strip() and after.startswith(content)]
    return int(added[max(ends, key=len)]) if ends else None


def check_template(tokenizer: Any) -> None:
    """Raise ValueError, which says what to set, if no answer could be put where the chat template has it."""
    try:
        chat_prompt(tokenizer, _ASKED)
    except TemplateError as error:
        raise ValueError(
            f"its chat template refuses a plain question ({error}): set model.chat_template to another one"
        ) from None


def encode_answer(tokenizer: Any, context: str, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return token ids of ``context`` and of ``answer`` after it.

    The boundary is where the context's own tokens end; if joining the two merges tokens across it, both are encoded
    on their own.

    Raises:
        ValueError: the answer holds one of the tokenizer's control tokens, which would be obeyed.
    """
    refuse_control_tokens(tokenizer, answer, f"the answer {quoted(answer)}")
    head = tuple(tokenizer(context, add_special_tokens=False).input_ids)
    whole = tuple(tokenizer(context + answer, add_special_tokens=False).input_ids)
    if whole[: len(head)] == head:
        return head, whole[len(head) :]
    return head, tuple(tokenizer(answer, add_special_tokens=False).input_ids)


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, answer_next: bool) -> str:
    text = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=answer_next, enable_thinking=False
    )
    return str(text)


def _manner(tokenizer: Any) -> _Manner:
    """Return what the template of ``tokenizer``, as it is now, puts around an answer; found out once."""
    found = _known.setdefault(tokenizer, {})
    template = str(getattr(tokenizer, "chat_template", ""))
    if template not in found:
        found[template] = _found_manner(tokenizer, template)
    return found[template]


def _found_manner(tokenizer: Any, template: str) -> _Manner:
    asked, said = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
    try:
        exchange = _rendered(tokenizer, [asked, said], answer_next=False)
    except TemplateError:
        return _Manner("", "", "")
    try:
        after = _rendered(tokenizer, [asked, said, asked], answer_next=True)
    except TemplateError:
        after = exchange
    after = after.partition(_SAID)[2]
    before = exchange.rpartition(_SAID)[0]
    prompt = _rendered(tokenizer, [asked], answer_next=True)
    if _ASKED not in before or _ASKED not in prompt:
        return _Manner("", "", after)
    given, wanted = (text.rpartition(_ASKED)[2] for text in (prompt, before))
    if wanted.startswith(given):
        missing = wanted[len(given) :]
        opening = missing.rstrip(" ") if missing.strip() else ""
        return _Manner(opening, missing[len(opening) :], after)
    shared = next((at for at, (a, b) in enumerate(zip(given, wanted)) if a != b), min(len(given), len(wanted)))
    if prompt == _rendered(tokenizer, [asked], answer_next=False) and not given.startswith(wanted):
        raise ValueError(
            f"its chat template takes no notice of add_generation_prompt, and puts {wanted.strip()!r} before "
            "answers: set model.chat_template to one that has it"
        )
    return _Manner(_closing(given[shared:], template, tokenizer), "", after)


def _closing(opened: str, template: str, tokenizer: Any) -> str:
    """Return what closes the last bracket that is open at the end of ``opened``; nothing if none is.

    Raises:
        ValueError: neither template nor tokenizer knows what would close it.
    """
    for bracket, form in _BRACKETS:
        for match in reversed(list(bracket.finditer(opened))):
            closing = form.format(match[1])
            if closing in opened[match.end() :]:
                continue
            if closing not in template and closing not in tokenizer.get_added_vocab():
                raise ValueError(
                    f"its chat template opens {match[0]} before every answer, and nothing says how that is closed: "
                    "set model.chat_template to one that doesn't"
                )
            if not closing.startswith("</"):
                return closing
            # An empty thought, as models that think are trained to leave it out.
            return ("" if opened.endswith("\n") else "\n") + f"\n{closing}\n\n"
    return ""
