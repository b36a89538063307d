import pytest
import torch

from persona_prune.methods.contrastive_taylor import benefit_per_damage, drop_best, threshold_of_best

INF = float("inf")


def test_benefit_per_damage_by_hand():
    weight = torch.tensor([[2.0, -1.0, 0.5, 0.0]])
    gradient = torch.tensor([[-3.0, 4.0, 1.0, 5.0]])
    square = torch.tensor([0.5, 2.0, 1.0, 1.0])
    damping = 1e-3 * 4.5 / 4
    # Dropping changes the objective by -w g = 6, 4, -0.5, 0: only the first two gain.
    # Damage is w^2 E[x^2] E[delta^2] with E[delta^2] = 10.
    expected = [6 / (40 * (0.5 + damping)), 4 / (10 * (2.0 + damping)), -INF, -INF]
    assert benefit_per_damage(weight, gradient, square, torch.tensor([10.0]))[0].tolist() == pytest.approx(expected)


def test_a_column_that_is_never_active_does_not_give_nan():
    score = benefit_per_damage(torch.tensor([[1.0, 1.0]]), torch.tensor([[-1.0, 1.0]]), torch.zeros(2), torch.ones(1))
    assert score[0].tolist() == [INF, -INF]


def test_only_what_gains_is_dropped_and_earlier_drops_stay():
    score = torch.tensor([[3.0, 5.0, -INF, 5.0, 1.0], [-INF, -INF, -INF, 2.0, -INF]])
    dropped = torch.zeros(2, 5, dtype=torch.bool)
    dropped[0, 1] = True
    after = drop_best(score, dropped, 2)
    assert after.tolist() == [[True, True, False, True, False], [False, False, False, True, False]]
    assert torch.equal(drop_best(score, after, 0), after)


def test_equal_scores_go_to_the_left():
    score = torch.ones(1, 6)
    assert drop_best(score, torch.zeros(1, 6, dtype=torch.bool), 2)[0].tolist() == [True, True, *[False] * 4]


def test_threshold_over_all_tensors():
    scores = [torch.tensor([[5.0, 1.0, -INF]]), torch.tensor([[4.0, 3.0], [0.5, INF]])]

    def dropped(count):
        threshold = threshold_of_best(scores, count)
        return sorted(value for score in scores for value in score[score > threshold].tolist())

    assert dropped(3) == [4.0, 5.0, INF]
    assert dropped(4) == [3.0, 4.0, 5.0, INF]
    # Nothing that isn't positive, however many are allowed.
    assert dropped(100) == [0.5, 1.0, 3.0, 4.0, 5.0, INF]


def test_threshold_never_drops_more_than_allowed_when_scores_tie():
    assert threshold_of_best([torch.ones(10)], 4) >= 1.0
