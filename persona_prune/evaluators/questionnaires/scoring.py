"""From probabilities and answers in words to the metrics of items and of the whole questionnaire."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import entr

from persona_prune.evaluators.questionnaires.answers import NoOption
from persona_prune.evaluators.questionnaires.inventory import Inventory, Item
from persona_prune.evaluators.questionnaires.reliability import keyed, reliability
from persona_prune.evaluators.statistics import Floats

Spoken = tuple[str, int | NoOption]
"""An answer in words, and the index of the option it names or why there is none."""


def item_samples(
    inventory: Inventory,
    probabilities: Floats,
    generated: Sequence[Sequence[Spoken]] | None,
) -> list[dict[str, Any]]:
    """Return one sample an item, with the metrics by item of `evaluators.questionnaire`.

    Args:
        inventory: the items.
        probabilities: ``[templates, orders, items, options]``.
        generated: item by item, the answers in words and the options they name, by template, then order.
    """
    levels, scales = inventory.levels, inventory.scales()
    agreement = expected_agreement(probabilities)
    samples = []
    for i, item in enumerate(inventory.items):
        asked, agreed = probabilities[:, :, i], agreement[:, :, i]
        score = float(keyed(agreed, np.array(item.key), levels).mean())
        values = _by_scale("score", scales, item, score)
        values |= _by_scale("margin", inventory.poles, item, 200 * (score - 1) / (levels - 1) - 100)
        values |= {
            "agreement": float(agreed.mean()),
            "entropy": float(entr(asked).sum(-1).mean()),
            "order_shift": float(np.abs(agreed[:, 0] - agreed[:, 1]).mean()),
            "first_listed": float((asked[:, 0, 0] + asked[:, 1, -1]).mean() / 2),
            "last_listed": float((asked[:, 0, -1] + asked[:, 1, 0]).mean() / 2),
        }
        sample = {"id": i, "item": item.text, "scale": item.scale, "key": item.key, "score": score}
        sample |= {"options": list(item.options), "probabilities": asked.tolist()}
        if generated is not None:
            likeliest = asked.reshape(-1, levels).argmax(-1)
            spoken_score, shares = _in_words(generated[i], likeliest.tolist(), item.key, levels)
            values |= _by_scale("generated_score", scales, item, spoken_score) | shares
            sample["answers"] = [text for text, _ in generated[i]]
        samples.append({**sample, "values": values})
    return samples


def whole_metrics(inventory: Inventory, probabilities: Floats) -> dict[str, float]:
    """Return the metrics of the whole questionnaire of `evaluators.questionnaire`, without the norms."""
    agreement = expected_agreement(probabilities)
    keys = np.array([item.key for item in inventory.items])
    figures = reliability(agreement, keys, inventory.levels, inventory.scales())
    scores = keyed(agreement.mean((0, 1)), keys, inventory.levels)
    for scale, (high, low) in inventory.poles.items():
        percent = 100 * float(scores[inventory.scales()[scale]].mean() - 1) / (inventory.levels - 1)
        figures |= {f"pole_{high}": percent, f"pole_{low}": 100 - percent}
        figures[f"type_{scale}"] = 0.5 if math.isclose(percent, 50) else float(percent > 50)
    return figures


def expected_agreement(probabilities: Floats) -> Floats:
    """Return ``[...]``: the mean value of the options, worth 1, 2, ..., under ``probabilities`` ``[..., options]``."""
    agreement: Floats = probabilities @ np.arange(1.0, probabilities.shape[-1] + 1)
    return agreement


def type_letters(inventory: Inventory, whole: Mapping[str, float]) -> str:
    """Return the names of the poles that the model leans to, such as INFP; ``?`` for a tie."""
    names = {0.0: 1, 1.0: 0}
    kinds = [(whole[f"type_{scale}"], ends) for scale, ends in inventory.poles.items()]
    return "".join(ends[names[kind]] if kind in names else "?" for kind, ends in kinds)


def _by_scale(name: str, scales: Iterable[str], item: Item, value: float | None) -> dict[str, float | None]:
    """Return ``<name>_<scale>`` for every scale, so that all items have the same metrics: None but for the item's."""
    return {f"{name}_{scale}": value if scale == item.scale else None for scale in scales}


def _in_words(
    answers: Sequence[Spoken], likeliest: Sequence[int], key: int, levels: int
) -> tuple[float | None, dict[str, float | None]]:
    """Return the mean keyed score of the answers that name an option, and the other metrics of answers in words."""
    named = [(said, best) for (_, said), best in zip(answers, likeliest) if isinstance(said, int)]
    shares: dict[str, float | None] = {
        kind: sum(said == kind for _, said in answers) / len(answers) for kind in ("refused", "unparsable")
    }
    shares["generated_likeliest"] = sum(said == best for said, best in named) / len(named) if named else None
    values = [said + 1 if key > 0 else levels - said for said, _ in named]
    return (sum(values) / len(values) if values else None), shares
