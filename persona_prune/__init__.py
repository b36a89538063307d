"""Find, apply and measure persona subnetworks of pretrained language models (arXiv 2602.07164).

loaded = load_model("smollm2_135m")
persona = Persona.load("outputs/.../persona.safetensors")
with persona.applied(loaded):
    loaded.model.generate(...)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from persona_prune.masks.switching import PersonaSwitcher
    from persona_prune.models.by_name import load_model
    from persona_prune.saved.persona import SavedPersona as Persona

__all__ = ["Persona", "PersonaSwitcher", "load_model"]

_PLACES = {
    "Persona": ("persona_prune.saved.persona", "SavedPersona"),
    "PersonaSwitcher": ("persona_prune.masks.switching", "PersonaSwitcher"),
    "load_model": ("persona_prune.models.by_name", "load_model"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that ``import persona_prune`` by itself loads no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """Return what there is, for completion in notebooks."""
    return sorted([*globals(), *__all__])
