"""What a line typed into the chat does."""

from typing import TextIO

from persona_prune.chat.conversation import Arm, Conversation, shares_of
from persona_prune.common.text_files import encodable
from persona_prune.common.validation import neighbours
from persona_prune.masks.applying import check_gamma

_HELP = """\
  /switch NAME        only this persona answers from now on
  /dense              only the dense model answers
  /mix a=0.7 b=0.3    a mix answers; shares are divided by their sum
  /all                the dense model and every persona answer
  /gamma 0.5          how much of a dropped weight stays, in [0, 1); /gamma alone: as in the runs
  /system TEXT        a system message from now on; /system alone: none
  /reset              forget what was said
  /help  /quit"""


class Commands:
    """Answers messages and obeys commands, which begin with a slash."""

    def __init__(self, conversation: Conversation, terminal: TextIO) -> None:
        self._conversation, self._terminal = conversation, terminal
        self._commands = {
            "switch": self._switch,
            "dense": self._dense,
            "mix": self._mix,
            "all": self._all,
            "gamma": self._gamma,
            "system": self._system,
            "reset": self._reset,
            "help": self._help,
        }

    def take(self, line: str) -> bool:
        """Do what a line says; return whether the chat goes on. Mistakes are told in one line."""
        line = line.strip()
        name, _, rest = line.removeprefix("/").partition(" ")
        try:
            encodable(line)
            if not line.startswith("/"):
                if line:
                    self.ask(line)
            elif name in ("quit", "exit"):
                return False
            elif name in self._commands:
                self._commands[name](rest.strip())
            else:
                self._line(f"/{name}: no such command; {neighbours(name, [*self._commands, 'quit'])}")
        except ValueError as error:
            self._line(str(error))
        except KeyboardInterrupt:
            self._line("\n(stopped)")
        return True

    def ask(self, prompt: str) -> None:
        """Have everyone who speaks answer, one after the other; Ctrl-C stops this answer and those still to come."""
        for arm in self._conversation.speaking:
            gamma = self._conversation.gamma
            softness = f" (gamma {gamma:g})" if gamma is not None and arm.shares else ""
            self._line(f"\n[{arm.label}{softness}]")
            self._conversation.answer(arm, prompt, self._say)
            self._line("")

    def _say(self, text: str) -> None:
        self._terminal.write(text)
        self._terminal.flush()

    def _line(self, text: str) -> None:
        self._say(f"{text}\n")

    def _switch(self, name: str) -> None:
        personas = [arm.label for arm in self._conversation.all_arms()]
        if name not in personas:
            raise ValueError(f"/switch {name}: no such persona; {neighbours(name, personas)}")
        self._only(self._conversation.arm({} if name == "dense" else {name: 1.0}))

    def _dense(self, _: str) -> None:
        self._only(self._conversation.arm({}))

    def _mix(self, text: str) -> None:
        self._only(self._conversation.arm(shares_of(text)))

    def _only(self, arm: Arm) -> None:
        self._conversation.speaking = [arm]
        self._line(f"now only {arm.label}")

    def _all(self, _: str) -> None:
        self._conversation.speaking = self._conversation.all_arms()
        self._line(f"now {', '.join(arm.label for arm in self._conversation.speaking)}")

    def _gamma(self, text: str) -> None:
        try:
            gamma = float(text) if text else None
        except ValueError:
            raise ValueError(f"/gamma {text}: expected a number in [0, 1)") from None
        if gamma is not None:
            check_gamma(gamma)
        self._conversation.gamma = gamma
        self._line("gamma as in the runs" if gamma is None else f"gamma {gamma:g}")

    def _system(self, text: str) -> None:
        self._conversation.set_system(text or None)
        self._line("system message set" if text else "no system message")

    def _help(self, _: str) -> None:
        self._line(_HELP)

    def _reset(self, _: str) -> None:
        self._conversation.reset()
        self._line("forgotten")
