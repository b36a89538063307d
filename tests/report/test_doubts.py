import pytest

from persona_prune.report.doubts import doubts


def words(**metrics):
    return " ".join(doubts({key.replace("__", "/"): value for key, value in metrics.items()}))


def test_an_ordinary_run_raises_none():
    assert not words(
        mask__sparsity=0.04,
        capability__perplexity_ratio=1.01,
        capability__neutral_first_word_shift=0.06,
        choice__margin_delta=1.0,
        choice__matching_log_prob_delta=-0.3,
        choice__matching_log_prob_delta_high=-0.2,
        choice__yes_rate=0.6,
        choice__shorter_rate=0.7,
        choice__shortest=0.5,
        multiple_choice__accuracy_low=0.4,
        multiple_choice__chance=0.25,
        questionnaire__share_items=0.4,
        questionnaire__share_orders=0.2,
        questionnaire__first_listed=0.3,
        speech__degenerate=0.1,
        dense__speech__degenerate=0.05,
    )


def test_a_mask_whose_cost_nobody_measured():
    assert "add capability" in words(mask__sparsity=0.2, choice__margin=1.0)
    assert "add capability" in words(mask__sparsity=0.2, speech__degenerate=0.0)
    assert not words(mask__sparsity=0.0, choice__margin=1.0)
    assert not words(mask__sparsity=0.2, choice__margin=1.0, capability__perplexity_ratio=1.0)


def test_an_opposite_that_is_gone_is_no_persona():
    # The margin of the mask that looked perfect: the rejecting answers went from -3.57 to -6.42 nats per token.
    fell = {"choice__matching_log_prob_delta": -2.85, "choice__matching_log_prob_delta_high": -2.5}
    assert "lost 2.85 nats" in words(choice__margin_delta=10.8, **fell)
    assert not words(choice__margin_delta=-1.0, **fell)


@pytest.mark.parametrize(("rate", "word"), [(0.97, "yes"), (0.02, "no")])
def test_one_word_for_everything(rate, word):
    assert f"prefers {word} in {max(rate, 1 - rate):.0%}" in words(choice__yes_rate=rate)
    assert f"prefers {word} in {max(rate, 1 - rate):.0%}" in words(multiple_choice__yes_rate=rate)


def test_one_word_takes_over_on_neutral_prompts():
    assert "changed its share by 0.84" in words(capability__neutral_first_word_shift=0.84)


def test_shortest_answer_and_chance():
    assert "always taking it would score 0.750" in words(choice__shorter_rate=0.95, choice__shortest=0.75)
    assert "better than chance (0.250)" in words(multiple_choice__accuracy_low=0.2, multiple_choice__chance=0.25)


def test_a_questionnaire_answered_without_reading():
    assert "Only 4% of the variance" in words(questionnaire__share_items=0.04, questionnaire__share_orders=0.9)
    assert "listed last with a probability of 0.95" in words(questionnaire__last_listed=0.95)
    assert "60% of its answers" in words(questionnaire__unparsable=0.4, questionnaire__refused=0.2)


def test_open_answers_are_measured_against_the_dense_models():
    assert "80% of its open answers" in words(speech__degenerate=0.8, dense__speech__degenerate=0.1)
    assert not words(speech__degenerate=0.8, dense__speech__degenerate=0.7)
