"""How rows of answers are laid out for a model: decided here for figures, statistics and gradients alike."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

from persona_prune.models.rows import Batch, Row, apart, batches, pack
from persona_prune.models.self_check import Found, find_layout

log = logging.getLogger(__name__)

# Settings that are a length in tokens. What happens beyond one, a mask of the layer's own or other frequencies, a
# packed row would replace. One too many only makes long rows slower.
_LENGTH = re.compile(
    r"window|attention_chunk|attn_chunk|local_attention|index_topk|compressed_attention|max_position|max_target|"
    r"n_positions|n_ctx|max_seq_len|context_length|mem_len|block_size"
)
_NO_LENGTH = re.compile(r"layers|pattern|original")  # numbers of layers, such as max_window_layers


@dataclass(frozen=True)
class Packing:
    """How a model is asked.

    Attributes:
        found: what the self-check found for short rows.
        reach: longer rows, in tokens, are asked one sequence at a time, as a window of attention may end within them;
            None where the configuration names no length.
    """

    found: Found
    reach: int | None

    @property
    def packed(self) -> bool:
        """Whether the answers of one prompt share a row, as long as it is within reach."""
        return self.found.layout in ("packed", "shared prefix")


_KNOWN: WeakKeyDictionary[nn.Module, Packing] = WeakKeyDictionary()
_TOLD: WeakSet[nn.Module] = WeakSet()


def packing(model: Any) -> Packing:
    """Return how ``model`` is asked, from a self-check the first time.

    To be called before hooks are set that count what a model sees.

    Raises:
        ValueError: no layout is right (`find_layout`).
    """
    if model not in _KNOWN:
        _KNOWN[model] = Packing(find_layout(model), reach(model.config.get_text_config().to_dict()))
    return _KNOWN[model]


def reach(settings: Mapping[str, Any]) -> int | None:
    """Return the shortest length in tokens that the ``settings`` of a model's configuration name; None without one."""
    kinds = settings.get("layer_types") or ["sliding"]
    slides = settings.get("use_sliding_window") is not False and any("sliding" in str(kind) for kind in kinds)
    found = [
        value
        for key, value in settings.items()
        if _LENGTH.search(key) and not _NO_LENGTH.search(key) and (slides or key != "sliding_window")
    ]
    ropes = settings.get("rope_parameters") or {}
    for rope in (ropes, *(value for value in ropes.values() if isinstance(value, Mapping))):
        # From that length on, all frequencies of these depend on the longest row of a batch.
        if rope.get("rope_type") in ("dynamic", "longrope"):
            found.append(rope.get("original_max_position_embeddings"))
    return min((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), default=None)


def check_by_token(model: Any, linears: Iterable[str]) -> None:
    """Refuse Linears that don't read one vector a token: statistics of what they read would mix tokens up.

    Raises:
        ValueError: there are such among ``linears``.
    """
    mixed = [name for name in linears if name in packing(model).found.mixed]
    if mixed:
        raise ValueError(
            f"{mixed[0]} (and {len(mixed) - 1} other Linears) of {type(model).__name__} doesn't read one vector a "
            "token, as experts that tokens are routed to: there are no statistics of its input by token"
        )


def split_prefix(model: Any, rows: Sequence[Row]) -> tuple[tuple[int, ...], list[Row]]:
    """Return the tokens that all ``rows`` begin with and the rows without them; no tokens where it isn't worth it.

    At least one prompt token stays in each row, as the first answer token is predicted from it. Nothing is shared where
    that would change what the model sees (`packing`).
    """
    first, last = min(row.prompt[:-1] for row in rows), max(row.prompt[:-1] for row in rows)
    shared = first[: next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))]
    if len(rows) < 2 or len(shared) < 4:
        return (), list(rows)
    how = packing(model)
    if how.found.layout != "shared prefix" or (how.reach is not None and max(map(len, rows)) > how.reach):
        return (), list(rows)
    return shared, [Row(row.prompt[len(shared) :], row.branches) for row in rows]


def laid_out(
    model: Any, rows: Sequence[Row], *, pad_id: int, batch_size: int, most_tokens: int | None = None
) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches of ``rows``, the same whatever their order, each with the indices of its rows.

    ``batch_size`` and ``most_tokens`` are as in `batches`; where answers can't share a row, each counts as one.
    ``rows`` may be what follows a shared prefix.
    """
    how = packing(model)
    longest = how.reach if how.reach is not None else max(map(len, rows), default=0)
    near, far = ([i for i, row in enumerate(rows) if (len(row) > longest) is beyond] for beyond in (False, True))
    if far and model not in _TOLD:
        _TOLD.add(model)
        name = type(model).__name__
        log.info("%s: rows of more than %d tokens are asked one sequence at a time: slower, and right", name, longest)
    for part, layout in ((near, how.found.layout), (far, "alone")):
        chosen = [rows[i] for i in part]
        packed = layout in ("packed", "shared prefix")
        together = 1 if packed else max((len(row.branches) for row in chosen), default=1)
        most = None if most_tokens is None else most_tokens // together
        for indices in batches(chosen, max(1, batch_size // together), most):
            taken = [chosen[i] for i in indices]
            batch = (
                pack(taken, pad_id, model.device)
                if packed
                else apart(taken, pad_id, model.device, alone=layout == "alone")
            )
            yield [part[i] for i in indices], batch
