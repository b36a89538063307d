"""Supervised fine-tuning of a low-rank adapter on the matching answers: the upper baseline (SFT in the paper)."""

import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from persona_prune.calibration.gradients import add_gradient
from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, Name, PositiveInt
from persona_prune.masks.applying import Intervention
from persona_prune.methods.baselines.base import Material, refuse_mix
from persona_prune.models.likelihood import Answer
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.rows import Row, pair_rows
from persona_prune.personas.persona import AnyPersona


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Lora:
    """Train an adapter (peft) on every Linear that a mask could touch, with AdamW and a linearly falling rate.

    The loss is the mean over answers of the negative log-probability per token of the matching answer.

    Attributes:
        rank: of the adapter.
        alpha: its scale, ``alpha / rank``.
        learning_rate: at the start.
        epochs: passes over the pairs.
        batch_size: pairs per step.
    """

    uses_pairs: ClassVar[bool] = True
    uses_validation: ClassVar[bool] = False
    is_control: ClassVar[bool] = False

    name: Name
    rank: PositiveInt
    alpha: PositiveInt
    learning_rate: Annotated[float, Field(gt=0.0)]
    epochs: PositiveInt
    batch_size: PositiveInt

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError for a mix."""
        refuse_mix(persona)

    def build(self, loaded: LoadedModel, material: Material, progress: Progress) -> Intervention:
        """Train the adapter; the model itself is left as it was."""
        from peft import LoraConfig
        from peft.utils import get_peft_model_state_dict

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=0.0,
            target_modules=list(loaded.linears),
            task_type="CAUSAL_LM",
        )
        rows = [
            Row(row.prompt, row.branches[:1])
            for row in pair_rows(loaded.tokenizer, material.pairs, material.max_tokens)
        ]
        rows.sort(key=lambda row: (row.prompt, row.branches))
        with torch.random.fork_rng():
            torch.manual_seed(material.seed)
            adapted = _adapted(loaded, config)
        try:
            self._train(loaded, adapted, rows, material.seed, progress)
            state = {key: value.detach().cpu().clone() for key, value in get_peft_model_state_dict(adapted).items()}
        finally:
            adapted.unload()
            loaded.model.requires_grad_(False)
        return Adapter(config, state)

    def _train(self, loaded: LoadedModel, adapted: Any, rows: list[Row], seed: int, progress: Progress) -> None:
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0)
        steps = self.epochs * -(-len(rows) // self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0 - step / steps)
        shuffled = random.Random(seed)
        advance = progress("lora", self.epochs * len(rows))
        for _ in range(self.epochs):
            shuffled.shuffle(rows)
            for start in range(0, len(rows), self.batch_size):
                add_gradient(
                    loaded.model,
                    rows[start : start + self.batch_size],
                    _log_probability,
                    weight=-1.0,
                    pad_id=loaded.tokenizer.pad_token_id,
                    batch_size=self.batch_size,
                    on_batch=advance,
                )
                optimiser.step()
                optimiser.zero_grad()
                schedule.step()


def _adapted(loaded: LoadedModel, config: Any) -> Any:
    """Return peft's wrapper around the model, whose Linears are replaced in place until ``unload``."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between the two libraries, not about this call
        return get_peft_model(loaded.model, config)


def _log_probability(_: Sequence[int], answers: list[list[Answer]]) -> Tensor:
    return torch.stack([only.log_probs.mean() for (only,) in answers]).sum()


@plain_dataclass(frozen=True)
class Adapter:
    """A trained adapter: peft's configuration and its weights on the CPU."""

    config: Any
    state: dict[str, Tensor]

    @property
    def bytes(self) -> int:
        """Size of the adapter's weights."""
        return sum(value.numel() * value.element_size() for value in self.state.values())

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[LoadedModel]:
        """Yield the model with the adapter in its Linears; it is taken out again on exit."""
        from peft.utils import set_peft_model_state_dict

        adapted = _adapted(loaded, self.config)
        try:
            set_peft_model_state_dict(adapted, self.state)
            adapted.requires_grad_(False)
            yield loaded
        finally:
            adapted.unload()
            loaded.model.requires_grad_(False)
