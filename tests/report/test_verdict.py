import math

import pytest

from persona_prune.evaluators.results import EvalResult
from persona_prune.report.run_page import summary_lines
from persona_prune.report.verdict import control_table, verdict
from persona_prune.runs.arms import average_of_sound


def figures(**changes):
    shifted = {f"choice/margin_delta{end}": value for end, value in (("", 0.4), ("_low", 0.2), ("_high", 0.6))}
    found = {**shifted, "capability/perplexity_ratio": 1.01, "capability/neutral_drift": 0.02}
    for control, (low, p) in {"random": (0.1, 0.001), "opposite": (0.3, 0.002)}.items():
        key = f"choice/margin_vs_{control}"
        found |= {key: low + 0.1, f"{key}_low": low, f"{key}_high": low + 0.2, f"{key}_p": p}
    return found | changes


def words(controls=("random", "opposite"), **changes):
    return " ".join(verdict(figures(**changes), controls))


def test_an_effect_that_beats_every_control_is_called_specific():
    text = words()
    assert "moves towards the persona" in text
    assert text.count("The effect survives") == 2
    assert "specific to this persona" in text


def test_a_prompt_leaves_perplexity_alone_and_that_is_no_merit():
    text = words(**{"capability/perplexity_ratio": 1.0 + 2e-16})
    assert "general ability" not in text
    assert "Perplexity is the dense model's" in text


@pytest.mark.parametrize("change", [{"choice/margin_vs_random_low": -0.1}, {"choice/margin_vs_random_p": 0.2}])
def test_one_control_that_is_not_beaten_is_enough(change):
    text = words(**change)
    assert "does not survive the comparison with random masks" in text
    assert "not larger than random" in text
    assert "specific to this persona" not in text


def test_a_control_that_drops_hardly_anything_was_not_beaten():
    text = words(**{"mask/sparsity": 0.04, "random/sparsity": 0.04, "opposite/sparsity": 0.001})
    assert text.count("The effect survives") == 1
    assert "0.10% of the weights where the persona's mask drops 4.00%" in text
    assert "Nothing follows from the comparison with the opposite persona's mask" in text
    assert "The effect survives the comparison with the opposite" in words(
        **{"mask/sparsity": 0.04, "opposite/sparsity": 0.02}
    )


@pytest.mark.parametrize(
    "change",
    [
        {"choice/margin_delta_low": -0.1},
        {"capability/perplexity_ratio": 3.0},
        {"choice/margin_delta_low": -0.6, "choice/margin_delta_high": -0.1},
    ],
)
def test_without_an_effect_nothing_survives(change):
    assert "survive" not in words(**change)
    if "capability/perplexity_ratio" in change:
        assert "say nothing about a persona" in words(**change)


def test_controls_are_shown_with_what_they_cost():
    metrics = figures() | {"random/choice/margin": -0.2, "random/capability/perplexity_ratio": 1.9}
    rows = control_table(metrics, ["random"])
    assert [(row["metric"], row["value"]) for row in rows] == [("margin", "-0.200"), ("perplexity_ratio", "1.900")]


def test_random_masks_that_wreck_the_model_do_not_count_beside_others():
    def found(margin: float, ratio: float) -> dict[str, EvalResult]:
        sample = {"id": 0, "values": {"margin": margin}}
        return {"choice": EvalResult([sample]), "capability": EvalResult([], {"perplexity_ratio": ratio})}

    controls, wrecked = average_of_sound([found(0.25, 1.2), found(9.0, 1.51), found(0.5, 1.4), found(9.0, math.inf)])
    assert (controls["choice"].means(), wrecked) == ({"margin": 0.375}, 2)
    assert controls["capability"].metrics["perplexity_ratio"] == pytest.approx(1.3)
    controls, wrecked = average_of_sound([found(1.0, 2.0), found(2.0, 4.0)])
    assert (controls["choice"].means(), wrecked) == ({"margin": 1.5}, 2)
    assert controls["capability"].metrics["perplexity_ratio"] == 3.0
    text = words(**{"random/wrecked": 1.0})
    assert "Masks of random that wreck the model, and so don't count: 1. The effect survives" in text


def test_the_last_lines_say_which_control_is_a_wreck():
    ratio = "random/capability/perplexity_ratio"
    lines = summary_lines("run", figures(**{ratio: 4.5, "opposite/wrecked": 1.0}), ["random", "opposite"]).splitlines()
    assert lines[-2].endswith("p = 0.001   (nothing follows: a wreck, ratio 4.5)")
    assert lines[-1].endswith("p = 0.002   (without 1 that wreck the model)")


def test_a_wrecked_control_shows_nothing():
    text = words(**{"random/capability/perplexity_ratio": 4.5})
    assert "Nothing follows from the comparison with random masks" in text
    assert text.count("The effect survives") == 1
    assert "specific to this persona, as far as" in text
    text = words(("random",), **{"random/capability/perplexity_ratio": 4.5})
    assert "nothing shows whether the shift is specific" in text
    assert "survive" not in words(**{"capability/perplexity_ratio": float("nan")})
