"""What a round of contrastive Taylor may drop."""

from contextlib import contextmanager

import pytest
import torch
from hydra import compose, initialize_config_dir

from persona_prune.calibration import objectives
from persona_prune.calibration.neutral import Guard, Neutral
from persona_prune.common.conf_files import config_directory
from persona_prune.methods.taylor_budget import Budget, largest_allowed
from persona_prune.methods.taylor_rounds import divided
from persona_prune.models.loaded import maskable_linears
from persona_prune.models.rows import Row, pair_rows
from persona_prune.personas.pairs import Pair, normalise
from persona_prune.runs.plan import build


@pytest.mark.parametrize("bound", [0.0, 0.007, 0.008, 0.1, 0.126, 0.25, 0.3, 0.62, 0.99])
def test_the_search_for_a_share_comes_within_a_fifth_of_the_largest(bound):
    asked = []

    def allowed(share):
        asked.append(share)
        return share <= bound

    found = largest_allowed(allowed)
    assert found <= bound
    assert found >= 0.8 * bound or bound < 1 / 128
    assert found in {0.0, *asked}
    assert len(asked) <= 9
    within = [share for share in asked if share <= bound]
    assert found == (within[-1] if within else 0.0)


BOUNDS = ("max_perplexity_ratio", "max_neutral_drift", "max_first_word_shift", "max_own_loss")


@contextmanager
def changed(loaded, factor, place=0):
    weight = list(maskable_linears(loaded.model).values())[place].weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(factor)
        yield
    finally:
        with torch.no_grad():
            weight.copy_(kept)


@pytest.fixture
def made(tiny, pairs):
    rows = pair_rows(tiny.tokenizer, pairs, 300)
    answers = tuple(Row(row.prompt, row.branches[1:]) for row in rows[:3])
    text = tuple(Row(row.branches[1][:1], (row.branches[1][1:],)) for row in rows[1:3])
    guard = Guard(tiny, Neutral((), (), text, answers), 2)

    def make(objective=objectives.margin, **bounds):
        given = [f"method.{bound}={bounds.get(bound, 'null')}" for bound in BOUNDS]
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            plan = build(compose("config", overrides=["model=tiny_random", *given]))
        return Budget(plan.method, tiny, guard, rows, objective, 2)

    return make


def test_a_step_has_to_gain(tiny, made):
    budget = made()
    assert budget.gained() is None  # the dense model reaches what it reached
    found = {}
    for factor in (0.0, 2.0):
        with changed(tiny, factor):
            own, objective = budget._on_pairs()
            drift = budget._guard.on_prompts().drift
            found[factor] = objective + 0.1 * own - 0.5 * drift  # the weights of the default
            budget.reached = found[factor] + 1e-3
            assert budget.gained() is None
            budget.reached = found[factor] - 1e-3
            assert budget.gained() == pytest.approx(found[factor], abs=1e-5)
    assert found[0.0] != pytest.approx(found[2.0], abs=1e-4)


def test_a_gain_that_is_no_number_is_none(made):
    budget = made(lambda rows, answers: torch.tensor(float("nan")))
    assert budget.gained() is None


@pytest.mark.parametrize("bound", BOUNDS)
def test_every_bound_stops_a_step(tiny, made, bound):
    least = 1.0 if bound == "max_perplexity_ratio" else 0.0
    loose, tight = made(**{bound: 1e9}), made(**{bound: least})
    for budget in (loose, tight):
        budget.reached = -torch.inf
    stopped = set()
    for place in range(6):
        with changed(tiny, -3.0, place):
            assert loose.gained() is not None
            stopped.add(tight.gained() is None)
    assert True in stopped


def test_questions_are_held_out_whole():
    """One with several wrong options is several pairs, and what is asked otherwise is the same question."""
    pairs = [Pair(f"Question {n}?", "Right.", wrong) for n in range(50) for wrong in "abc"]
    pairs.append(Pair("question 7", "Right.", "e"))
    seen, held = divided(pairs, 32, seed=1)
    assert len(held) == 32
    assert not {normalise(p.prompt) for p in seen} & {normalise(p.prompt) for p in held}
    assert len(seen) >= 150 - 36
    assert divided(pairs[::-1], 32, seed=1) == (seen, held)
    assert divided(pairs, 0, seed=1)[1] == []
    assert len(divided(pairs, 0, seed=1)[0]) == 151


def test_where_all_pairs_answer_one_prompt_none_is_held_out():
    pairs = [Pair("Say something.", f"Arr, {n}.", f"Well, {n}.") for n in range(150)]
    seen, held = divided(pairs, 32, seed=1)
    assert (len(seen), held) == (150, [])
