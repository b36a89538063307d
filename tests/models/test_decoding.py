import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MistralConfig, MistralForCausalLM, TemperatureLogitsWarper, TopPLogitsWarper

from persona_prune.models.decoding import Completion, DecodingBatch, Query, draw
from persona_prune.models.generation import Sampling, answers, greedy_answers
from persona_prune.models.loaded import LoadedModel
from tests.serving_support import PROMPTS, query, tokens_of

PROBABILITIES = torch.tensor([[0.2, 0.5, 0.3]])


def finished(*batches: DecodingBatch) -> None:
    while any(batch.answers for batch in batches):
        for batch in batches:
            if batch.answers:
                batch.step()


def collect(loaded: LoadedModel, queries: list[Query]) -> list[str]:
    """Completion in one batch and return the texts."""
    answers = [Completion(one, loaded) for one in queries]
    batch = DecodingBatch(loaded, answers)
    texts = dict.fromkeys(answers, "")
    while batch.answers:
        for answer, piece in batch.step():
            texts[answer] += piece
    return list(texts.values())


def drawn(temperature: float, top_p: float, number: float) -> int:
    settings = [torch.tensor([value], dtype=torch.float64) for value in (temperature, top_p, number)]
    return int(draw(PROBABILITIES.log(), *settings))


@pytest.mark.parametrize(
    ("temperature", "top_p", "number", "token"),
    [
        (0.0, 1.0, 0.99, 1),  # the likeliest
        (1.0, 1.0, 0.19, 0),  # cumulative: 0.2, 0.7, 1.0
        (1.0, 1.0, 0.21, 1),
        (1.0, 1.0, 0.71, 2),
        (1.0, 0.8, 0.60, 1),  # 0.5 and 0.3 stay: cumulative 0.625, 1.0
        (1.0, 0.8, 0.64, 2),
        (1.0, 0.5, 0.99, 1),  # 0.5 alone is enough
        (1.0, 0.0, 0.99, 1),
        (0.5, 1.0, 0.10, 0),  # squared and normalised: 0.04, 0.25, 0.09 of 0.38
        (0.5, 1.0, 0.11, 1),
        (0.5, 1.0, 0.77, 2),
    ],
)
def test_the_drawn_token_is_the_one_worked_out_by_hand(temperature, top_p, number, token):
    assert drawn(temperature, top_p, number) == token


def test_rows_are_drawn_as_transformers_would_alone():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 50, generator=generator) * 3
    temperature = torch.tensor([0.0, 0.3, 1.0, 1.7, 0.8, 1.0], dtype=torch.float64)
    top_p = torch.tensor([0.5, 1.0, 0.9, 0.3, 0.05, 1.0], dtype=torch.float64)
    number = torch.rand(6, generator=generator, dtype=torch.float64)
    expected = [int(logits[0].argmax())]
    for row in range(1, 6):
        scores = TemperatureLogitsWarper(float(temperature[row]))(None, logits[row : row + 1])
        if top_p[row] < 1:
            scores = TopPLogitsWarper(float(top_p[row]))(None, scores)
        cumulative = scores.double().softmax(-1).cumsum(-1)[0]
        expected.append(next(token for token in range(50) if cumulative[token] > number[row]))
    assert draw(logits, temperature, top_p, number).tolist() == expected


def test_greedy_answers_are_the_same_alone_and_batched_and_as_by_generate(tiny):
    expected = greedy_answers(tiny, [tokens_of(tiny, p) for p in PROMPTS], max_new_tokens=12, batch_size=1)
    texts = [tiny.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    queries = [query(tiny, prompt, tokens=12) for prompt in PROMPTS]
    assert collect(tiny, queries) == texts
    assert [collect(tiny, [one])[0] for one in queries] == texts


def test_sampled_answers_depend_on_their_own_seed_only(tiny):
    seeds = [5, 6, 7, 5]
    expected = answers(
        tiny,
        [tokens_of(tiny, p) for p in PROMPTS],
        seeds=seeds,
        sampling=Sampling(0.3, 0.8),
        max_new_tokens=12,
        batch_size=1,
    )
    queries = [query(tiny, p, tokens=12, temperature=0.3, top_p=0.8, seed=s) for p, s in zip(PROMPTS, seeds)]
    texts = [tiny.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert collect(tiny, queries) == texts
    assert collect(tiny, [queries[2], query(tiny, "Why?", tokens=3)])[0] == texts[2]


def test_answers_that_join_and_leave_on_the_way_are_what_they_are_alone(tiny):
    lengths = [10, 3, 7, 12]
    queries = [query(tiny, prompt, tokens=n) for prompt, n in zip(PROMPTS, lengths)]
    expected = [collect(tiny, [one])[0] for one in queries]
    answers = [Completion(one, tiny) for one in queries]
    texts = dict.fromkeys(answers, "")
    batch = DecodingBatch(tiny, answers[:2])
    for late in (answers[2], answers[3]):
        for _ in range(2):
            for answer, piece in batch.step():
                texts[answer] += piece
        other = DecodingBatch(tiny, [late])
        for answer, piece in other.step():
            texts[answer] += piece
        assert batch.join(other)
        assert other.answers == []
    batch.retain(lambda answer: answer is not answers[0])
    while batch.answers:
        for answer, piece in batch.step():
            texts[answer] += piece
    assert [texts[answer] for answer in answers[1:]] == expected[1:]
    assert expected[0].startswith(texts[answers[0]])


def test_a_long_prompt_that_leaves_takes_its_padding_along(tiny):
    short, long = Completion(query(tiny, "Why?", tokens=6), tiny), Completion(query(tiny, "why " * 60, tokens=1), tiny)
    batch = DecodingBatch(tiny, [short, long])
    batch.step()
    assert batch.answers == [short]
    assert batch._attention.shape[1] == len(short.query.prompt) + 1
    assert batch._cache.get_seq_length() == len(short.query.prompt)


def test_models_with_a_sliding_window_answer_in_batches_that_are_not_joined(tiny):
    config = MistralConfig(
        vocab_size=len(tiny.tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=6,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MistralForCausalLM(config).eval().requires_grad_(False)
    loaded = LoadedModel(name="mistral", model=model, tokenizer=tiny.tokenizer, fingerprint="")
    expected = greedy_answers(loaded, [tokens_of(loaded, p) for p in PROMPTS], max_new_tokens=10, batch_size=1)
    queries = [query(loaded, prompt, tokens=10) for prompt in PROMPTS]
    assert collect(loaded, queries) == [tiny.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    first, second = (DecodingBatch(loaded, [Completion(one, loaded)]) for one in queries[:2])
    first.step(), second.step()
    assert not first.join(second)
    assert len(second.answers) == 1


def test_logits_that_are_not_finite_are_an_error(tiny, monkeypatch):
    batch = DecodingBatch(tiny, [Completion(query(tiny, "Why?"), tiny)])
    monkeypatch.setattr(batch, "_forward", lambda: torch.full((1, 8), torch.nan))
    with pytest.raises(FloatingPointError, match="not finite"):
        batch.step()


def written(loaded: LoadedModel, text: str, stop: list[str], *, end: bool) -> tuple[Completion, list[str]]:
    """Feed the tokens of ``text`` to an answer, and the end token if asked."""
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    answer = Completion(Query((1,), len(ids) + (1 if end else 0), 0.0, 1.0, 0, tuple(stop)), loaded)
    pieces = []
    for token in [*ids, *([loaded.tokenizer.eos_token_id] if end else [])]:
        if answer.finish_reason is None:
            pieces.append(answer.take(token))
    return answer, pieces


def test_a_character_of_several_tokens_comes_whole(tiny):
    text = "Grüße 🦜 und 한국어"
    answer, pieces = written(tiny, text, [], end=True)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert any(piece == "" for piece in pieces), "no character of this text was spread over tokens"
    assert answer.finish_reason == "stop"


def test_a_stop_text_is_no_part_of_the_answer_even_across_tokens(tiny):
    answer, pieces = written(tiny, "First line.\n\nUser: hello there", ["\nUser:"], end=False)
    assert "".join(pieces) == "First line.\n"
    assert answer.finish_reason == "stop"
    answer, pieces = written(tiny, "a b", [" b and more"], end=False)
    assert ("".join(pieces), answer.finish_reason, answer.tokens) == ("a b", "length", 2)


@settings(max_examples=150, deadline=None)
@given(text=st.text("ab \né🦜", max_size=25), stop=st.lists(st.text("ab \n🦜", min_size=1, max_size=4), max_size=3))
def test_whatever_the_tokens_the_text_ends_before_the_first_stop(tiny, text, stop):
    _, pieces = written(tiny, text, stop, end=True)
    whole = tiny.tokenizer.decode(tiny.tokenizer(text, add_special_tokens=False).input_ids)
    # The first stop text to be complete wins; of those complete with the same token, the one that begins first.
    ends = [whole[: whole.find(one)] for one in stop if one in whole]
    if not ends:
        assert "".join(pieces) == whole
    else:
        assert "".join(pieces) in ends
        assert not any(one in "".join(pieces) for one in stop)
