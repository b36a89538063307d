from typing import ClassVar

import pytest
import torch

from persona_prune.models.chat_text import answer_lead, chat_prompt, encode_answer
from persona_prune.models.likelihood import score
from persona_prune.models.rows import Row, batches, pack, pair_rows, text_rows
from tests.reference import oracles


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_packed_rows_equal_one_sequence_at_a_time(tiny, pairs, batch_size):
    rows = pair_rows(tiny.tokenizer, pairs, 512)
    scored = score(tiny, rows, batch_size)
    for row, answers in zip(rows, scored, strict=True):
        for tokens, answer in zip(row.branches, answers, strict=True):
            expected = oracles.answer_log_probs(tiny.model, row.prompt, tokens)
            torch.testing.assert_close(answer.log_probs, expected, atol=2e-5, rtol=1e-5)


def test_rows_without_a_common_prefix(tiny):
    rows = [Row((5, 6, 7), ((8, 9), (10,))), Row((11,), ((12, 13, 14), (15, 16), (17,)))]
    scored = score(tiny, rows, 2)
    for row, answers in zip(rows, scored, strict=True):
        for tokens, answer in zip(row.branches, answers, strict=True):
            expected = oracles.answer_log_probs(tiny.model, row.prompt, tokens)
            torch.testing.assert_close(answer.log_probs, expected, atol=2e-5, rtol=1e-5)


def test_likeliest_is_what_greedy_decoding_would_take(tiny):
    prompt = (5, 6, 7)
    with torch.no_grad():
        best = tiny.model(input_ids=torch.tensor([prompt])).logits[0, -1].argmax().item()
    ((right, wrong),) = score(tiny, [Row(prompt, ((best,), ((best + 1) % 100,)))], 1)
    assert right.likeliest.tolist() == wrong.likeliest.tolist() == [best]


def test_batches_do_not_depend_on_the_order_of_rows():
    rows = [Row((1,) * n, ((2,),)) for n in (5, 3, 9, 1, 7)]
    grouped = {frozenset(len(rows[i]) for i in batch) for batch in batches(rows, 2)}
    turned = rows[::-1]
    assert grouped == {frozenset(len(turned[i]) for i in batch) for batch in batches(turned, 2)}


def test_chat_template_ends_where_the_answer_begins(tiny):
    text = chat_prompt(tiny.tokenizer, "Hello?")
    assert text.endswith("<|im_start|>assistant\n")
    prompt, answer = encode_answer(tiny.tokenizer, text, "Hi there.")
    assert tiny.tokenizer.decode(prompt) == text
    assert tiny.tokenizer.decode(answer) == "Hi there."


def test_long_pairs_are_cut_and_prompts_that_leave_no_room_refused(tiny, pairs):
    longest = max(len(r.prompt) for r in pair_rows(tiny.tokenizer, pairs, 512))
    assert all(len(b) <= 2 for r in pair_rows(tiny.tokenizer, pairs[1:2], longest + 2) for b in r.branches)
    with pytest.raises(ValueError, match="raise max_tokens"):
        pair_rows(tiny.tokenizer, pairs, longest)


def test_padding_never_leaks_into_attention():
    batch = pack([Row((1, 2), ((3,), (4,))), Row((5,), ((6,),))], pad_id=0, device="cpu")
    for i in range(2):
        real = batch.branch[i] >= -1
        assert not batch.allowed[i, 0][real][:, ~real].any()
        assert batch.allowed[i, 0].any(dim=1).all()


class Template:
    """A tokenizer of whitespace-separated words with a chat template of its own."""

    bos_token_id = 0
    added_tokens_decoder: ClassVar[dict] = {}
    all_special_tokens = ("</s>",)

    def __init__(self, before_answer, bos):
        self.before_answer, self.bos = before_answer, bos

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt, enable_thinking):
        answers = "".join(f"{self.before_answer}{m['content']}</s>" for m in messages[1:])
        return f"[INST] {messages[0]['content']} [/INST]{answers}"

    def __call__(self, text, *, add_special_tokens=True, verbose=True):
        ids = [len(word) for word in text.split()]
        return type("Encoding", (), {"input_ids": [0, *ids] if self.bos and add_special_tokens else ids})


def test_the_space_a_template_puts_before_an_answer_belongs_to_the_answer():
    assert answer_lead(Template(" ", bos=True)) == " "
    assert answer_lead(Template("", bos=True)) == ""
    assert answer_lead(Template("<think></think>", bos=True)) == ""


def test_every_window_of_text_begins_with_bos_where_texts_do():
    text = "a bb ccc dddd eeeee"
    assert [(r.prompt, r.branches) for r in text_rows(Template("", bos=True), text, 3, 99)] == [
        ((0,), ((1, 2),)),
        ((0,), ((3, 4),)),
        ((0,), ((5,),)),
    ]
    assert [(r.prompt, r.branches) for r in text_rows(Template("", bos=False), text, 3, 4)] == [((1,), ((2, 3),))]
