import math

import pytest
import torch

from persona_prune.models.generation import Sampling, answers, end_tokens, greedy_answers

PROMPTS = [(5, 6, 7, 8, 9), (10, 11), (12, 13, 14), (5, 6)]
SEEDS = [3, 1, 4, 15]
WARM = Sampling(temperature=0.8, top_p=0.9)


def sampled(tiny, prompts=PROMPTS, seeds=SEEDS, sampling=WARM, batch_size=4, max_new_tokens=7):
    return answers(tiny, prompts, seeds=seeds, sampling=sampling, max_new_tokens=max_new_tokens, batch_size=batch_size)


def next_probabilities(tiny, ids, sampling):
    """One sequence, probabilities as Python numbers, the nucleus filled token by token."""
    with torch.no_grad():
        logits = tiny.model(input_ids=torch.tensor([ids])).logits[0, -1].double() / sampling.temperature
    probabilities = logits.softmax(-1).tolist()
    kept, total = {}, 0.0
    for token in sorted(range(len(probabilities)), key=lambda t: -probabilities[t]):
        if total >= sampling.top_p:
            break
        kept[token] = probabilities[token]
        total += probabilities[token]
    return {token: p / total for token, p in kept.items()}


def test_an_answer_follows_its_own_random_numbers(tiny):
    answer = sampled(tiny)[0]
    generator = torch.Generator().manual_seed(SEEDS[0])
    numbers = torch.rand(7, generator=generator).tolist()
    ids, expected = list(PROMPTS[0]), []
    for number in numbers:
        cumulative = 0.0
        probabilities = next_probabilities(tiny, ids, WARM)
        for token in sorted(probabilities):
            cumulative += probabilities[token]
            if cumulative > number:
                break
        expected.append(token)
        ids.append(token)
    ends = end_tokens(tiny)
    stop = next((i for i, token in enumerate(expected) if token in ends), len(expected))
    assert answer == tuple(expected[: max(stop, 1)])


def test_tokens_are_as_frequent_as_they_are_likely(tiny):
    sharp = Sampling(temperature=0.25, top_p=0.95)
    expected = next_probabilities(tiny, PROMPTS[1], sharp)
    draws = 400
    found = sampled(tiny, [PROMPTS[1]] * draws, list(range(draws)), sharp, batch_size=100, max_new_tokens=1)
    assert {answer[0] for answer in found} <= set(expected)
    for token in sorted(expected, key=lambda t: -expected[t])[:5]:
        p = expected[token]
        frequency = sum(answer == (token,) for answer in found) / draws
        assert frequency == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / draws))


def test_batch_size_and_order_change_no_answer(tiny):
    together = sampled(tiny)
    assert together == sampled(tiny, batch_size=1)
    assert together[::-1] == sampled(tiny, PROMPTS[::-1], SEEDS[::-1], batch_size=3)
    greedy = greedy_answers(tiny, PROMPTS, max_new_tokens=7, batch_size=32)
    assert greedy == greedy_answers(tiny, PROMPTS, max_new_tokens=7, batch_size=1)


def test_the_seed_decides(tiny):
    first, second = sampled(tiny), sampled(tiny, seeds=[seed + 100 for seed in SEEDS])
    assert first != second
    state = torch.random.get_rng_state()
    assert sampled(tiny) == first
    assert torch.equal(torch.random.get_rng_state(), state)


def test_hardly_any_warmth_is_greedy(tiny):
    cold = Sampling(temperature=1e-4, top_p=1.0)
    assert sampled(tiny, sampling=cold) == greedy_answers(tiny, PROMPTS, max_new_tokens=7, batch_size=4)


def test_greedy_and_sampled_answers_share_batches_without_changing_each_other(tiny):
    mixed = sampled(tiny, seeds=[None, 1, None, 15])
    alone = sampled(tiny)
    greedy = greedy_answers(tiny, PROMPTS, max_new_tokens=7, batch_size=4)
    assert mixed == [greedy[0], alone[1], greedy[2], alone[3]]
