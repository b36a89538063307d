"""Several personas on one loaded model, one at a time or mixed, without a second copy of its weights."""

import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from persona_prune.masks.applying import (
    check_fits,
    check_gamma,
    dense_model,
    dropped_positions,
    gated,
    weights_at,
    write_weights,
)
from persona_prune.masks.mask import Mask
from persona_prune.models.loaded import LoadedModel, maskable_linears


class MaskSource(Protocol):
    """Something that has a mask for a dense model: `saved_persona.SavedPersona`."""

    @property
    def gamma(self) -> float:
        """What dropped weights are multiplied with where nothing else is asked for."""

    def mask(self, linears: Mapping[str, nn.Linear]) -> Mask:
        """Return the mask for the dense ``linears``."""


@dataclass(frozen=True)
class Voice:
    """What is on the weights now: shares of personas that add up to 1, and what each one's dropped weights keep.

    Attributes:
        shares: persona -> share; empty for the dense model.
        gammas: persona -> gamma in [0, 1).
    """

    shares: Mapping[str, float]
    gammas: Mapping[str, float]

    def __str__(self) -> str:
        """Return it as a label: ``dense``, ``extrovert``, ``extrovert (gamma 0.5)`` or ``0.7 a + 0.3 b``."""
        if not self.shares:
            return "dense"
        names = " + ".join(name if share == 1 else f"{share:.3g} {name}" for name, share in self.shares.items())
        softest = sorted({gamma for gamma in self.gammas.values() if gamma})
        return f"{names} (gamma {', '.join(f'{gamma:g}' for gamma in softest)})" if softest else names


_DECIMALS = 6  # of a mix's factors: shares that add up to one drop a weight, whatever their sum is in binary

DENSE = Voice({}, {})
"""The model as it was loaded."""

DroppedPositions = Mapping[str, Tensor]
"""Linear name -> int32 ``[dropped]``, ascending positions in the flattened weight, on the weight's device."""


@dataclass(frozen=True)
class _Written:
    """What stands in one Linear in place of its own weights."""

    positions: Tensor
    original: Tensor


class PersonaSwitcher:
    """Puts one of several personas, or a mix of them, on a model in a fraction of the time a mask takes to apply.

    What *all* personas drop is kept apart, once, and written only on the way from and to the dense model; of each
    persona the rest is kept as positions (4 bytes a weight). Values are kept only of weights that are dropped now. A
    switch therefore writes what the persona before and the next one don't share: with two personas exactly that.

    A mix multiplies with ``G = 1 - sum_k s_k (1 - gamma_k) (1 - M_k)``: a weight that one part drops loses the
    share ``s_k`` of that part, one that all drop is dropped. Shares are divided by their sum, as in ``persona=mix``;
    there, though, every part's mask is built anew with its share of the sparsity, and all of them drop for good.

    Used as a context manager it leaves the model dense, bit for bit, also after an error. Not for several generations
    at once: `using` holds the lock while a body generates.
    """

    def __init__(self, model: LoadedModel | Any, personas: Mapping[str, MaskSource | Mask]) -> None:
        """Read the masks of ``personas``, by the names they are to be called by here; the model stays dense.

        Args:
            model: a loaded model or a bare transformers model, dense; its weights are changed in place.
            personas: name -> persona, or a bare mask (whose gamma is 0).

        Raises:
            ValueError: there are none, the model is not dense, or a mask is of another model; nothing is changed then.
        """
        if not personas:
            raise ValueError("no personas to switch between: give at least one")
        self._model, fingerprint = dense_model(model)
        self._linears = maskable_linears(self._model)
        self._gammas: dict[str, float] = {}
        masks: dict[str, Mask] = {}
        for name, persona in personas.items():
            self._gammas[name] = 0.0 if isinstance(persona, Mask) else persona.gamma
            masks[name] = persona if isinstance(persona, Mask) else persona.mask(self._linears)
            try:
                check_fits(self._model, masks[name], fingerprint)
            except ValueError as error:
                raise ValueError(f"persona {name}: {error}") from None
        self._common, self._rest = self._positions(masks)
        self._written: dict[tuple[str, str], _Written] = {}
        self._voice = DENSE
        self._factor_of_common = 1.0
        self._switches, self._seconds = 0, 0.0
        self.lock = threading.RLock()

    @property
    def names(self) -> tuple[str, ...]:
        """The personas there are."""
        return tuple(self._gammas)

    @property
    def voice(self) -> Voice:
        """What is on the weights now."""
        return self._voice

    def label(self, shares: Mapping[str, float]) -> str:
        """Return how a mix of these shares is called; raise ValueError as `mix` does."""
        return str(Voice(self._asked_for(shares, None).shares, {}))

    @property
    def switches(self) -> int:
        """How often weights were changed."""
        return self._switches

    @property
    def seconds(self) -> float:
        """How long that took in all."""
        return self._seconds

    @property
    def bytes(self) -> int:
        """Memory taken now beside the model: positions and set-aside weights."""
        held = [*self._common.values(), *(p for rest in self._rest.values() for p in rest.values())]
        held += [written.original for written in self._written.values()]
        return sum(tensor.nbytes for tensor in held)

    def switch(self, name: str | None, *, gamma: float | None = None) -> None:
        """Make the model this persona, or dense.

        Args:
            name: one of `names`; None for dense.
            gamma: what dropped weights are multiplied with, in [0, 1); None for what the persona's own run used.

        Raises:
            ValueError: there is no such persona, or ``gamma`` is out of range; nothing is changed then.
        """
        self.mix({} if name is None else {name: 1.0}, gamma=gamma)

    def mix(self, shares: Mapping[str, float], *, gamma: float | None = None) -> None:
        """Make the model several personas at once, each with its share; dense if there are none.

        Args:
            shares: persona -> share, above 0; divided by their sum.
            gamma: as in `switch`, for all of them.

        Raises:
            ValueError: there is no such persona, or a share or ``gamma`` is out of range; nothing is changed then.
        """
        voice = self._asked_for(shares, gamma)
        with self.lock:
            # Something is left only where an interrupt came while weights were being restored.
            if voice == self._voice and (voice.shares or not self._written):
                return
            started = time.perf_counter()
            try:
                self._become(voice)
            except BaseException:
                # Half of the one and half of the other must not stay.
                self._restore()
                raise
            finally:
                self._switches += 1
                self._seconds += time.perf_counter() - started

    @contextmanager
    def using(self, shares: Mapping[str, float] | str | None, *, gamma: float | None = None) -> Iterator[Any]:
        """Switch (a name, or None) or mix, and yield the transformers model; nobody else switches meanwhile.

        It stays as it is afterwards: going on with the same persona costs nothing.
        """
        with self.lock:
            if shares is None or isinstance(shares, str):
                self.switch(shares, gamma=gamma)
            else:
                self.mix(shares, gamma=gamma)
            yield self._model

    def close(self) -> None:
        """Make the model dense, bit for bit."""
        self.switch(None)

    def __enter__(self) -> Self:
        """Return the switcher."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Make the model dense, whatever happened."""
        self.close()

    def _asked_for(self, shares: Mapping[str, float], gamma: float | None) -> Voice:
        if gamma is not None:
            check_gamma(gamma)
        for name, share in shares.items():
            if name not in self._gammas:
                raise ValueError(f"no persona {name!r}: there is {', '.join(self._gammas)}")
            if not 0 < share < float("inf"):
                raise ValueError(f"the share of {name} must be above 0, got {share}")
        total = sum(shares.values())
        gammas = {name: self._gammas[name] if gamma is None else gamma for name in shares}
        return Voice({name: share / total for name, share in shares.items()}, gammas)

    def _become(self, voice: Voice) -> None:
        amounts = {name: share * (1 - voice.gammas[name]) for name, share in voice.shares.items()}
        # One persona: gamma itself, not 1 - (1 - gamma), so that it is exactly what `masked` multiplies with.
        only = next(iter(voice.gammas.values())) if len(amounts) == 1 else None
        common = only if only is not None else round(1.0 - sum(amounts.values()), _DECIMALS)
        # Nothing counts as written until all is: restoring may be interrupted, too.
        changed = common != self._factor_of_common
        self._voice, self._factor_of_common = DENSE, math.nan
        for name in self._linears:
            self._restore_one("rest", name)
            if changed:
                self._restore_one("common", name)
            if not amounts:
                continue
            if changed:
                self._write_one("common", name, self._common[name], common)
            if only is not None:
                self._write_one("rest", name, self._rest[next(iter(amounts))][name], only)
            else:
                self._write_one("rest", name, *self._mixed(name, amounts))
        self._factor_of_common = common
        self._voice = voice

    def _mixed(self, linear: str, amounts: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        """Return what any part drops of one Linear, and what it is multiplied with (fp32)."""
        weight = self._linears[linear].weight
        taken = torch.zeros(weight.numel(), device=weight.device)
        for name, amount in amounts.items():
            positions = self._rest[name][linear]
            taken.index_add_(0, positions, torch.full(positions.shape, amount, device=weight.device))
        positions = taken.nonzero().flatten()
        return positions.int(), (1 - taken[positions]).round(decimals=_DECIMALS)

    def _write_one(self, layer: str, linear: str, positions: Tensor, factor: float | Tensor) -> None:
        module = self._linears[linear]
        original = weights_at(module, positions)
        # Noted before the weights change, so that an interrupt in between loses nothing.
        self._written[layer, linear] = _Written(positions, original)
        write_weights(module, positions, gated(original, factor))

    def _restore_one(self, layer: str, linear: str) -> None:
        written = self._written.get((layer, linear))
        if written is not None:
            write_weights(self._linears[linear], written.positions, written.original)
            del self._written[layer, linear]

    def _restore(self) -> None:
        for layer, linear in list(self._written):
            self._restore_one(layer, linear)
        self._factor_of_common = 1.0

    def _positions(self, masks: Mapping[str, Mask]) -> tuple[DroppedPositions, Mapping[str, DroppedPositions]]:
        """Return what all masks drop, and what each one drops beside."""
        common: dict[str, Tensor] = {}
        rest: dict[str, dict[str, Tensor]] = {name: {} for name in masks}
        for linear, module in self._linears.items():
            dropped = {name: dropped_positions(mask, linear, module.weight.device) for name, mask in masks.items()}
            by_how_many = torch.zeros(module.weight.numel(), dtype=torch.int32, device=module.weight.device)
            for positions in dropped.values():
                by_how_many[positions] += 1
            by_all = by_how_many == len(masks)
            common[linear] = by_all.nonzero().flatten().int()
            for name, positions in dropped.items():
                rest[name][linear] = positions[~by_all[positions]].int()
        return common, rest
