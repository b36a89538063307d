"""How far answers to a questionnaire can be trusted: alpha, reversed keys, retest, acquiescence, and what moves them.

A model has no second sitting and no fellow respondents. An *administration*, one template in one option order, stands
for both, as in Serapio-García et al. (2023, arXiv:2307.00184), who vary the prompt to get respondents. Language models
agree whatever the key (Dorner et al. 2023, arXiv:2311.05297) and follow the order of the options (Gupta et al. 2023,
arXiv:2309.08163), so every figure here comes with one that such a model fails.

``agreement`` is ``[templates, orders, items]`` in 1 to ``levels``, unkeyed; ``keys`` is ``[items]``, 1 or -1.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from persona_prune.evaluators.statistics import Floats

Ints = NDArray[np.int64]

_NOTHING = 1e-10  # variance of answers on a scale of a few points that is arithmetic only


def reliability(agreement: Floats, keys: Ints, levels: int, scales: Mapping[str, list[int]]) -> dict[str, float]:
    """Return every figure of this module, those of a scale as ``<figure>_<scale>``.

    Which figures there are depends on the questionnaire and the number of templates, never on the answers.

    ``alpha``: Cronbach's, over administrations. ``alpha_centred``: the same after each administration's acquiescence
    is subtracted from its answers, as Soto et al. (2008, JPSP 94, 718-737) do for people: where items of a scale are
    unevenly keyed, a model that takes the first option whatever it says has a high alpha and a centred alpha of 0.
    Both say that the items of a scale move together from one administration to the next, not that the score stays put:
    where ``share_orders`` is large, a high alpha is about the prompt. Over so few administrations they are rough.
    ``consistency``: see `consistency`; also the mean over scales. ``retest``: see `retest`, over templates, by scale
    and over all items; ``retest_orders``: over option orders. ``acquiescence``: see `acquiescence`, the mean over
    administrations. ``share_items``, ``share_templates``, ``share_orders``: see `variance_shares`.
    """
    templates, orders, items = agreement.shape
    sittings = agreement.reshape(templates * orders, items)
    by_template, by_order = agreement.mean(1), agreement.mean(0)
    both_ways = {scale: at for scale, at in scales.items() if len(set(keys[at].tolist())) == 2}
    figures: dict[str, float] = {}
    if both_ways:
        bias = acquiescence(sittings, keys, both_ways)
        figures["acquiescence"] = float(bias.mean())
        centred = sittings - bias[:, None] + (levels + 1) / 2
    for scale, at in scales.items():
        figures[f"alpha_{scale}"] = cronbach_alpha(keyed(sittings[:, at], keys[at], levels))
        if both_ways:
            figures[f"alpha_centred_{scale}"] = cronbach_alpha(keyed(centred[:, at], keys[at], levels))
        if scale in both_ways:
            figures[f"consistency_{scale}"] = consistency(sittings[:, at], keys[at], levels)
        if templates > 1:
            figures[f"retest_{scale}"] = retest(by_template[:, at])
    if both_ways:
        figures["consistency"] = float(np.mean([figures[f"consistency_{scale}"] for scale in both_ways]))
    if templates > 1:
        figures["retest"] = retest(by_template)
    figures["retest_orders"] = retest(by_order)
    return figures | variance_shares(agreement)


def keyed(agreement: Floats, keys: Ints, levels: int) -> Floats:
    """Return the scores ``[..., items]``: agreement, turned round where the key is -1."""
    return np.where(keys > 0, agreement, levels + 1 - agreement)


def cronbach_alpha(scores: Floats) -> float:
    """Return ``k / (k - 1) * (1 - sum of item variances / variance of totals)`` (Cronbach 1951, Psychometrika 16).

    0 where there is one item or nothing varies, so that nothing was measured. Items that contradict each other make
    alpha negative without bound; it is cut at -1.

    Args:
        scores: ``[respondents, items]``, keyed.
    """
    count = scores.shape[1]
    within, total = scores.var(axis=0).sum(), scores.sum(axis=1).var()
    if count < 2 or within < _NOTHING:
        return 0.0
    return float(max(-1.0, count / (count - 1) * (1 - within / max(total, _NOTHING))))


def consistency(agreement: Floats, keys: Ints, levels: int) -> float:
    """Return how well the two keyed halves of a scale agree on its score, from 1 down to 0.

    1 minus the distance between the score of the items keyed 1 and that of the items keyed -1, as a share of the
    largest possible one, in each administration; the mean of these. Whoever gives the same extreme answer to
    everything has 0, and so has one that always takes the first option listed.

    Args:
        agreement: ``[administrations, items of the scale]``.
        keys: ``[items of the scale]``, of both signs.
        levels: number of options.
    """
    scores = keyed(agreement, keys, levels)
    distance = np.abs(scores[:, keys > 0].mean(1) - scores[:, keys < 0].mean(1))
    return float(1 - distance.mean() / (levels - 1))


def acquiescence(agreement: Floats, keys: Ints, scales: Mapping[str, list[int]]) -> Floats:
    """Return the mean agreement of every administration, ``[administrations]``, both keys weighing the same.

    Within each of the ``scales`` the items keyed 1 count as much as those keyed -1, so that a trait cancels and only
    agreeing as such remains: the middle of the options is none.
    """
    halves = [agreement[:, [i for i in at if keys[i] == key]].mean(1) for at in scales.values() for key in (1, -1)]
    bias: Floats = np.stack(halves).mean(axis=0)
    return bias


def retest(sittings: Floats) -> float:
    """Return the mean Pearson correlation of the answers between all pairs of sittings, 0 where answers don't vary.

    Answers are unkeyed: keyed ones of a model that agrees with everything would correlate perfectly through the keys.

    Args:
        sittings: ``[sittings, items]``.
    """
    return float(np.mean([_pearson(first, second) for first, second in combinations(sittings, 2)]))


def variance_shares(agreement: Floats) -> dict[str, float]:
    """Return which share of the variance of all answers lies between items, between templates and between orders.

    Main effects of the items x templates x orders design, as in generalisability theory (Cronbach et al. 1972). Only
    what lies between items can be about content; the rest up to 1 is interaction. All 0 where nothing varies.
    """
    total = agreement.var()
    effects = {"items": (0, 1), "templates": (1, 2), "orders": (0, 2)}
    return {
        f"share_{name}": 0.0 if total < _NOTHING else float(agreement.mean(axis=others).var() / total)
        for name, others in effects.items()
    }


def _pearson(first: Floats, second: Floats) -> float:
    if len(first) < 2 or min(first.var(), second.var()) < _NOTHING:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
