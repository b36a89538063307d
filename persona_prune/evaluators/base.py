"""The protocol of an evaluator and what it returns."""

from typing import ClassVar, Protocol

from persona_prune.common.progress import Progress
from persona_prune.evaluators.results import EvalResult
from persona_prune.models.loaded import LoadedModel
from persona_prune.personas.persona import AnyPersona

VERSION = (
    5  # raise it whenever an evaluator would give other figures, so that cached ones and finished runs are not reused
)


class AtOnce:
    """An evaluator that is done with a model when it has evaluated it."""

    def complete(self, loaded: LoadedModel, result: EvalResult, progress: Progress) -> EvalResult:
        """Return ``result`` as it is."""
        return result


class Evaluator(Protocol):
    """What a YAML in ``conf/evaluator`` builds.

    ``measures_alignment``: whether it asks for the persona; control masks are measured only where one evaluator does.
    """

    measures_alignment: ClassVar[bool]

    def check(self, persona: AnyPersona) -> None:
        """Raise ValueError or OSError if the items cannot be read; called before any weights load."""

    def prompts(self, persona: AnyPersona) -> set[str]:
        """Return the normalised prompts that are evaluated for ``persona``, for the leakage check."""

    def identity(self, persona: AnyPersona) -> object:
        """Return JSON values that change whenever the result on the same model would: settings and items."""

    def evaluate(
        self, loaded: LoadedModel, persona: AnyPersona, dense: EvalResult | None, progress: Progress
    ) -> EvalResult:
        """Evaluate the model as it stands.

        Args:
            loaded: the model, masked or not, with its tokenizer.
            persona: who it is to be.
            dense: this evaluator's result for the dense model; None when this call is that one.
            progress: for bars.
        """

    def complete(self, loaded: LoadedModel, result: EvalResult, progress: Progress) -> EvalResult:
        """Return ``result`` with what needs the dense model, which ``loaded`` is again; see `AtOnce`."""
