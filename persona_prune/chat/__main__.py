"""Talk to a model and its personas: ``python -m persona_prune.chat persona_file=FILE [persona_file_2=FILE]``.

Every message is answered by the dense model and by each persona, one below the other.

    persona_file=FILE    a persona file, or a run directory; up to four: persona_file_2=, persona_file_3=, ...
    model=NAME           a model's name, directory or hub id; default: the model of the first persona's run
    temperature=0        0: always the likeliest token; above: sampled
    top_p=1  seed=42     of sampling
    max_new_tokens=200   length of an answer at most
    gamma=0.0            what dropped weights are multiplied with, in [0, 1); default: what each run used
    system=TEXT          a system message
    prompt=TEXT          answer this and end
    json=true            with prompt: one JSON object
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from persona_prune.chat.commands import Commands
from persona_prune.chat.conversation import Conversation, Decoding
from persona_prune.common.cli import FROM_TEXT, run_command
from persona_prune.common.validation import Fraction, PositiveInt, Text
from persona_prune.masks.switching import PersonaSwitcher
from persona_prune.saved.persona import SavedPersona
from persona_prune.saved.rebuilt_run import model_of


@dataclass(frozen=True, kw_only=True, config=FROM_TEXT)
class ChatSettings:
    """The command line; see the module."""

    persona_file: str
    persona_file_2: str | None = None
    persona_file_3: str | None = None
    persona_file_4: str | None = None
    model: str | None = None
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 42
    max_new_tokens: PositiveInt = 200
    gamma: Fraction | None = None
    system: Text | None = None
    prompt: Text | None = None
    json: bool = False

    def __post_init__(self) -> None:
        if self.json and self.prompt is None:
            raise ValueError("json=true is for one answer: give prompt=... too")


def main(arguments: list[str]) -> int:
    """Chat; return 0 done, 2 bad input, 130 interrupted before the chat began."""
    return run_command(ChatSettings, arguments, __doc__ or "", _chat)


def _chat(settings: ChatSettings) -> None:
    files = (settings.persona_file, settings.persona_file_2, settings.persona_file_3, settings.persona_file_4)
    personas = _named([SavedPersona.load(file) for file in files if file is not None])
    loaded = model_of(next(iter(personas.values())), settings.model).load()
    decoding = Decoding(settings.temperature, settings.top_p, settings.seed, settings.max_new_tokens)
    with PersonaSwitcher(loaded, personas) as switcher:
        conversation = Conversation(loaded, switcher, decoding)
        conversation.gamma = settings.gamma
        conversation.set_system(settings.system)
        if settings.prompt is None:
            print(f"{loaded.name}: {', '.join(arm.label for arm in conversation.speaking)}. /help shows the commands.")
            _talk(Commands(conversation, sys.stdout))
        elif settings.json:
            answers = {arm.label: conversation.answer(arm, settings.prompt, str) for arm in conversation.speaking}
            said = {"model": loaded.name, "prompt": settings.prompt, "answers": answers}
            print(json.dumps(said, ensure_ascii=False))
        else:
            Commands(conversation, sys.stdout).ask(settings.prompt)


def _talk(commands: Commands) -> None:
    """Read lines until /quit or the end of the input."""
    with contextlib.suppress(ImportError):  # where there is no readline, there is no line editing
        import readline  # noqa: F401
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # so that a byte that is not UTF-8 costs one line, not all
    going_on = True
    while going_on:
        try:
            line = input("\n> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("  (/quit or Ctrl-D to leave)")
            continue
        if not sys.stdin.isatty():
            print(line.encode(errors="backslashreplace").decode())  # a terminal has shown it already
        going_on = commands.take(line)


def _named(personas: list[SavedPersona]) -> dict[str, SavedPersona]:
    """Return personas by name; those of one name are told apart by where they come from."""
    named: dict[str, SavedPersona] = {}
    for persona in personas:
        name = persona.name.replace(" ", "_")
        if name in named or name in ("dense", "all"):
            name = f"{name}@{Path(persona.path).absolute().parent.name.replace(' ', '_')}"
        if name in named:
            raise ValueError(f"{persona.path} is given twice")
        named[name] = persona
    return named


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
