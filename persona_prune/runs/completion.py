"""Completion in the shell, where Hydra's own knows ``python file.py`` and not ``python -m``."""

import os
import re
from collections.abc import Sequence

_MODULE = "persona_prune.run"
_BASH = f"""\
persona_prune_completion() {{
    local words=($COMP_LINE)
    [ "${{words[1]}} ${{words[2]}}" == "-m {_MODULE}" ] || return
    local choices=$(COMP_LINE="$COMP_LINE" "${{words[0]}}" -m {_MODULE} -sc query=bash 2> /dev/null)
    COMPREPLY=($(compgen -W "$choices" -- "${{COMP_LINE##* }}"))
}}
export COMP_WORDBREAKS=${{COMP_WORDBREAKS//=}}
complete -o nospace -o default -F persona_prune_completion python python3"""


def answer(overrides: Sequence[str]) -> bool:
    """Answer what Hydra would answer wrongly; return False where it is its turn, with a line that it can read."""
    if list(overrides) == ["install=bash"]:
        print(_BASH)
        return True
    if list(overrides) == ["uninstall=bash"]:
        print("complete -r python python3; unset -f persona_prune_completion")
        return True
    line = os.environ.get("COMP_LINE", "")
    os.environ["COMP_LINE"] = re.sub(rf"^\s*\S+\s+-m\s+{re.escape(_MODULE)}", _MODULE, line)
    return False
