"""Figures don't depend on how many prompts go through the model at once."""

import pytest

from tests.evaluators.every_evaluator import ask, every_evaluator

NAMES = ["choice", "multiple_choice", "questionnaire", "speech", "lm_eval", "capability"]


@pytest.fixture(params=["tiny", pytest.param("smollm2", marks=pytest.mark.slow)])
def loaded(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_one_at_a_time_and_32_at_once_give_the_same_figures(name, loaded, tmp_path):
    alone, together = (ask(every_evaluator(tmp_path, batch_size=size)[name], loaded) for size in (1, 32))
    assert together.metrics == pytest.approx(dict(alone.metrics), abs=1e-3)
    assert together.means() == pytest.approx(alone.means(), abs=1e-3)
    for first, second in zip(alone.samples, together.samples, strict=True):
        assert second["values"] == pytest.approx(first["values"], abs=1e-3)
