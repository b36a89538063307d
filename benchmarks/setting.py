"""What the benchmarks run on: a loaded model, its pairs, and plans as a run would have them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from hydra import compose, initialize_config_dir
from torch import nn

from benchmarks.shapes import SHAPES
from persona_prune.calibration.signatures import Signature, collect
from persona_prune.common.conf_files import config_directory
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Row, pair_rows
from persona_prune.models.sources import ModelSpec
from persona_prune.personas.pair_files import EMBEDDED, read_pairs
from persona_prune.personas.pairs import Pair
from persona_prune.runs.plan import Plan, build

BATCH = 16
_MOST_TOKENS = 512


def plan(*overrides: str) -> Plan:
    """Return the plan that ``python -m persona_prune.run <overrides>`` would run."""
    with initialize_config_dir(str(config_directory()), version_base="1.3"):
        return build(compose("config", overrides=list(overrides)))


def spec(model: str, dtype: str) -> ModelSpec:
    """Return what loads a model: one of ``conf/model``, or one of `shapes.SHAPES` with random weights."""
    if model in SHAPES:
        return cast(ModelSpec, SHAPES[model])
    return plan(f"model={model}", f"model.dtype={dtype}").model


@dataclass(frozen=True)
class Setting:
    """A model under measurement.

    Attributes:
        model: its name.
        dtype: number format of its weights, for those of ``conf/model``.
        loaded: the model, dense.
        quick: a few items of everything: to see that it works, not what it measures.
        full: the whole of what otherwise is a sample.
        rounds: how many paired rounds.
        say: what to call with a line for the user.
    """

    model: str
    dtype: str
    loaded: LoadedModel
    quick: bool
    full: bool
    rounds: int
    say: Callable[[str], object]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.loaded.model.device)

    @property
    def pad(self) -> int:
        """The token that fills batches."""
        return int(self.loaded.tokenizer.pad_token_id)

    @cached_property
    def linears(self) -> dict[str, nn.Linear]:
        """What a mask covers."""
        return self.loaded.linears

    def pairs(self) -> tuple[Pair, ...]:
        """Return the embedded extrovert's 64 calibration pairs."""
        return read_pairs(EMBEDDED / "extrovert_introvert" / "calibration.jsonl")[: 8 if self.quick else 64]

    def rows(self, pairs: Sequence[Pair]) -> list[Row]:
        """Return pairs as rows of tokens."""
        return pair_rows(self.loaded.tokenizer, pairs, _MOST_TOKENS)

    def slices(self, items: int) -> list[range]:
        """Return the numbers of ``items`` items in `rounds` equal parts, one a round."""
        return [range(i, items, self.rounds) for i in range(self.rounds)]

    def signature(self, rows: Sequence[Row]) -> tuple[Signature, ...]:
        """Return the product's signatures of both answers."""
        return collect(
            self.loaded.model,
            self.linears,
            rows,
            pad_id=self.pad,
            batch_size=BATCH,
            positions="response",
            model_fingerprint=self.loaded.fingerprint,
            data_hash="benchmark",
        )
