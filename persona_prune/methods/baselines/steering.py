"""Contrastive activation addition: a vector added to the residual stream (Rimsky et al. 2024)."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from persona_prune.common.progress import Progress
from persona_prune.common.validation import STRICT, Name
from persona_prune.masks.applying import Intervention
from persona_prune.methods.baselines.base import Material, refuse_mix
from persona_prune.models.likelihood import score
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.packing import laid_out, packing
from persona_prune.models.passes import forward
from persona_prune.models.rows import Row, pair_rows
from persona_prune.personas.persona import AnyPersona

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Steering:
    """Add ``strength`` times the mean difference of hidden states to the output of one decoder layer, at all positions.

    The difference is between the answer positions of matching and not matching answers: mean over the tokens of an
    answer, then over pairs. Layer and strength are those with the largest margin on the validation pairs, among the
    ones whose perplexity on neutral validation text stays within ``max_perplexity_ratio``.

    Attributes:
        depths: layers to try, as shares of the model's depth.
        strengths: multiples of the difference to try.
        max_perplexity_ratio: what a choice may cost; if all cost more, the one that costs least is taken.
    """

    uses_pairs: ClassVar[bool] = True
    uses_validation: ClassVar[bool] = True
    is_control: ClassVar[bool] = False

    name: Name
    depths: list[Annotated[float, Field(ge=0.0, lt=1.0)]]
    strengths: list[Annotated[float, Field(gt=0.0)]]
    max_perplexity_ratio: Annotated[float, Field(ge=1.0)]

    def __post_init__(self) -> None:
        if not self.depths or not self.strengths:
            raise ValueError("name at least one depth and one strength")

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError for a mix."""
        refuse_mix(persona)

    def build(self, loaded: LoadedModel, material: Material, progress: Progress) -> Intervention:
        """Compute the vectors in one pass and choose layer and strength on the validation pairs."""
        layers = decoder_layers(loaded.model)
        chosen = sorted({int(depth * len(layers)) for depth in self.depths})
        rows = pair_rows(loaded.tokenizer, material.pairs, material.max_tokens)
        vectors = mean_differences(
            loaded, rows, chosen, batch_size=material.batch_size, on_batch=progress("steering vector", len(rows))
        )
        guard = material.guard()
        validation = pair_rows(loaded.tokenizer, material.validation, material.max_tokens)
        advance = progress("steering settings", len(chosen) * len(self.strengths))
        tried: list[tuple[float, float, SteeringVector]] = []
        for number in chosen:
            for strength in self.strengths:
                steering = SteeringVector(number, strength * vectors[number])
                with steering.applied(loaded):
                    ratio = guard.perplexity_ratio()
                    affordable = ratio <= self.max_perplexity_ratio
                    margin = _margin(loaded, validation, material.batch_size) if affordable else -math.inf
                log.debug("layer %d, strength %g: margin %+.3f, perplexity ratio %.3f", number, strength, margin, ratio)
                # Where nothing is affordable all margins are alike, and the smallest ratio decides.
                tried.append((margin, -ratio, steering))
                advance(1)
        best = max(tried, key=lambda entry: entry[:2])[2]
        log.info("steering: layer %d, vector of norm %.3g", best.layer, float(best.vector.norm()))
        return best


@plain_dataclass(frozen=True)
class SteeringVector:
    """A vector ``[hidden]`` that is added to the output of decoder layer number ``layer``."""

    layer: int
    vector: Tensor

    @property
    def bytes(self) -> int:
        """Size of the vector."""
        return self.vector.numel() * self.vector.element_size()

    @contextmanager
    def applied(self, loaded: LoadedModel) -> Iterator[LoadedModel]:
        """Yield the model, steered while the body runs."""

        def add(_: nn.Module, __: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            steered = hidden + self.vector.to(hidden)
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

        handle = decoder_layers(loaded.model)[self.layer].register_forward_hook(add)
        try:
            yield loaded
        finally:
            handle.remove()


@torch.inference_mode()
def mean_differences(
    loaded: LoadedModel,
    rows: Sequence[Row],
    layers: Sequence[int],
    *,
    batch_size: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> dict[int, Tensor]:
    """Return, by layer number, the mean over rows of branch 0's minus branch 1's mean hidden state, ``[hidden]``."""
    modules = decoder_layers(loaded.model)
    packing(loaded.model)  # its own passes are not to be kept
    outputs: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            outputs[number] = output[0] if isinstance(output, tuple) else output

        return hook

    sums = {number: torch.zeros(()) for number in layers}
    with ExitStack() as hooks:
        for number in layers:
            hooks.callback(modules[number].register_forward_hook(keep(number)).remove)
        for indices, batch in laid_out(loaded.model, rows, pad_id=loaded.pad_id, batch_size=batch_size):
            means: dict[tuple[int, int], list[Tensor]] = {(n, pole): [] for n in layers for pole in (0, 1)}
            for part in batch.parts():
                forward(loaded.model, part)
                for (number, pole), found in means.items():
                    hidden = outputs[number]
                    own = part.branch.to(hidden.device) == pole
                    own, hidden = own[own.any(1)], hidden[own.any(1)].float()
                    found.append((own[..., None] * hidden).sum(1) / own.sum(1, keepdim=True))
            for number in layers:
                target, contrast = (torch.cat(means[number, pole]) for pole in (0, 1))
                sums[number] = sums[number] + (target - contrast).sum(0).cpu()
            on_batch(len(indices))
    return {number: total / len(rows) for number, total in sums.items()}


def decoder_layers(model: Any) -> nn.ModuleList:
    """Return the decoder's layers; raise ValueError for a model that keeps them elsewhere."""
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{type(model).__name__} has no decoder layers where they are expected: steering needs them")
    return layers


def _margin(loaded: LoadedModel, rows: Sequence[Row], batch_size: int) -> float:
    answers = score(loaded, rows, batch_size)
    return sum((a.log_probs.mean() - b.log_probs.mean()).item() for a, b in answers) / len(answers)
