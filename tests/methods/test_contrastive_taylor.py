import pytest
import torch

from persona_prune.calibration.damage import Damage
from persona_prune.methods.contrastive_taylor import benefit_per_damage, drop_best, threshold_of_best

INF = float("inf")


def test_benefit_per_damage_by_hand():
    # Thirty columns that gain nothing, so that none of the others carries a fifth of the row's energy.
    weight = torch.cat([torch.tensor([[2.0, -1.0, 0.5, 0.0]]), torch.full((1, 30), 3.0)], 1)
    gradient = torch.cat([torch.tensor([[-3.0, 4.0, 1.0, 5.0]]), torch.ones(1, 30)], 1)
    square = torch.cat([torch.tensor([0.5, 2.0, 1.0, 1.0]), torch.ones(30)])
    damping = 1e-3 * 34.5 / 34
    # Dropping changes the objective by -w g = 6, 4, -0.5, 0, -3...: only the first two gain.
    # Damage is w^2 E[x^2] E[delta^2] with E[delta^2] = 10, and a tenth of it as damping.
    expected = [6 / (44 * (0.5 + damping)), 4 / (11 * (2.0 + damping)), *[-INF] * 32]
    assert benefit_per_damage(weight, gradient, Damage(square, torch.tensor([10.0])))[0].tolist() == pytest.approx(
        expected
    )


def test_a_weight_that_carries_its_output_is_never_dropped():
    """However much dropping it would gain: such is a super weight."""
    weight = torch.full((2, 40), 0.1)
    weight[1, 7] = 5.0
    score = benefit_per_damage(weight, torch.full((2, 40), -9.0), Damage(torch.ones(40), torch.ones(2)))
    assert (score[0] > 0).all()
    assert score[1, 7] == -INF
    assert (score[1, :7] > 0).all()


def test_outputs_that_no_answer_depends_on_yet_do_not_win():
    """A saturated head has next to no derivative, until too much of it is gone."""
    weight = torch.full((2, 8), 0.1)
    gradient = torch.tensor([[-1.0], [-1e-6]]).expand(2, 8)
    score = benefit_per_damage(weight, gradient, Damage(torch.ones(8), torch.tensor([1.0, 1e-12])))
    assert (score[0] > 1e4 * score[1]).all()


def test_a_column_that_is_never_active_does_not_give_nan():
    damage = Damage(torch.zeros(2), torch.ones(1))
    score = benefit_per_damage(torch.tensor([[1.0, 1.0]]), torch.tensor([[-1.0, 1.0]]), damage)
    assert score[0].tolist() == [-INF, -INF]


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
    scores = [torch.tensor([[5.0, 1.0, -INF]]), torch.tensor([[4.0, 3.0], [0.5, 9.0]])]

    def dropped(count):
        threshold = threshold_of_best(scores, count)
        return sorted(value for score in scores for value in score[score > threshold].tolist())

    assert dropped(3) == [4.0, 5.0, 9.0]
    assert dropped(4) == [3.0, 4.0, 5.0, 9.0]
    # Nothing that isn't positive, however many are allowed.
    assert dropped(100) == [0.5, 1.0, 3.0, 4.0, 5.0, 9.0]


def test_threshold_never_drops_more_than_allowed_when_scores_tie():
    assert threshold_of_best([torch.ones(10)], 4) >= 1.0


@pytest.mark.parametrize("scores", [torch.rand(4, 500), torch.randint(1, 9, (4, 500)).float()], ids=["apart", "ties"])
def test_what_a_smaller_share_takes_is_found_among_what_a_larger_one_does(scores):
    threshold = threshold_of_best([scores], 800)
    ahead = [scores[scores > threshold]]
    for count in (0, 1, 100, 400, 799, 800):
        assert max(threshold, threshold_of_best(ahead, count)) == threshold_of_best([scores], count)
