"""What changes of weights cost on neutral text: the diagonal of the K-FAC Fisher matrix, and its cache."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from persona_prune.calibration import signature_cache
from persona_prune.calibration.gradients import output_gradients
from persona_prune.common.cache import kept
from persona_prune.common.progress import Progress
from persona_prune.models.likelihood import PIECE
from persona_prune.models.loaded import LoadedModel
from persona_prune.models.packing import check_by_token, laid_out
from persona_prune.models.passes import forward
from persona_prune.models.rows import Row

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Damage:
    """What a change of a Linear's weights costs on generic text, by row and by column.

    Attributes:
        inputs: ``E[x_j^2]``, ``[in_features]`` float32 on the CPU.
        outputs: ``E[delta_i^2]``, ``[out_features]``, of the log-probability of sampled answers.
    """

    inputs: Tensor
    outputs: Tensor


def generic_damage(
    model: Any,
    linears: Mapping[str, nn.Linear],
    rows: Sequence[Row],
    *,
    pad_id: int,
    batch_size: int,
    seed: int,
    on_batch: Callable[[int], object] = lambda rows_done: None,
) -> dict[str, Damage]:
    """Return, by Linear, the K-FAC diagonal of the Fisher matrix in its two factors, from one pass over ``rows``.

    ``delta`` is the gradient of the log-probability of answers with respect to the Linear's output. The answers are
    sampled, token by token, from the model's own distribution at every answer position of ``rows``, so that
    ``E[delta_i^2] E[x_j^2]`` is the diagonal of the K-FAC Fisher matrix (Martens and Grosse 2015): what a change of
    ``w_ij`` costs the model on this text, comparable across rows and layers. Means are over tokens, padding excluded.

    Raises:
        ValueError: a Linear doesn't read one vector a token.
    """
    check_by_token(model, linears)
    inputs = {name: torch.zeros(m.in_features, dtype=torch.float64) for name, m in linears.items()}
    outputs = {name: torch.zeros(m.out_features, dtype=torch.float64) for name, m in linears.items()}
    real: dict[int, Tensor] = {}  # by length of the flat batch, flat positions that are no padding

    def add(name: str, delta: Tensor, read: Tensor) -> None:
        kept = read.index_select(0, real[len(read)].to(read.device)).float()
        inputs[name] += kept.square().sum(0).cpu().double()
        outputs[name] += delta.float().square().sum(0).cpu().double()

    tokens = 0
    generator = torch.Generator().manual_seed(seed)
    with output_gradients(model, linears, add):
        for indices, batch in laid_out(model, rows, pad_id=pad_id, batch_size=batch_size):
            real = {p.branch.numel(): (p.branch >= -1).flatten().nonzero()[:, 0] for p in batch.parts()}
            with torch.enable_grad():
                logits = forward(model, batch)
                logits.backward(_to_sampled_gradient(logits.detach(), generator))  # type: ignore[no-untyped-call]
            tokens += int((batch.branch >= -1).sum())
            on_batch(len(indices))
    return {name: Damage((inputs[name] / tokens).float(), (outputs[name] / tokens).float()) for name in linears}


def cached_damage(
    loaded: LoadedModel, rows: Sequence[Row], digest: str, *, batch_size: int, seed: int, progress: Progress
) -> tuple[dict[str, Damage], Path]:
    """Return `generic_damage` of the dense model, computed once for a model and ``rows``, and the file it is kept in.

    Args:
        loaded: the dense model.
        rows: neutral text and conversations.
        digest: identifies ``rows``.
        batch_size: rows per pass.
        seed: of the sampled answers.
        progress: for bars.
    """
    settings = {"damage": seed, "arithmetic": loaded.arithmetic, "batch": batch_size}
    path = signature_cache.cache_file(loaded.fingerprint, digest, settings)
    linears = loaded.linears
    if kept(path):
        try:
            stored = load_file(path)
            return {name: Damage(stored[f"inputs/{name}"], stored[f"outputs/{name}"]) for name in linears}, path
        except (SafetensorError, OSError, KeyError) as error:
            log.warning("cached statistics %s are damaged (%s): computing them again", path, error)
    damage = generic_damage(
        loaded.model,
        linears,
        rows,
        pad_id=loaded.tokenizer.pad_token_id,
        batch_size=batch_size,
        seed=seed,
        on_batch=progress("generic text", len(rows)),
    )
    inputs = {f"inputs/{name}": d.inputs for name, d in damage.items()}
    outputs = {f"outputs/{name}": d.outputs for name, d in damage.items()}
    signature_cache.store_finite(path, inputs | outputs, lambda partial: save_file(inputs | outputs, partial))
    return damage, path


def _to_sampled_gradient(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Turn logits, in place, into the gradient by them of the log-probability of tokens sampled from them."""
    for piece in torch.split(logits, PIECE):
        x = piece.detach().requires_grad_()
        log_probs = x.float().log_softmax(-1)
        sampled = torch.multinomial(log_probs.detach().exp().cpu(), 1, generator=generator)
        (found,) = torch.autograd.grad(log_probs.gather(1, sampled.to(log_probs.device)).sum(), x)
        piece.copy_(found)
    return logits
