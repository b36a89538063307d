"""What the configurations of several runs have in common, what differs, and what to call each run."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from persona_prune.saved.finished_runs import Run

_GROUPS = ("model", "persona", "method", "calibration", "evaluator")
_NAMED = ("model.name", "persona.name", "persona.flip", "method.name", "method.sparsity", "seed")
"""Settings that name a run; others do so only where these don't tell runs apart."""
_ABOUT = ("persona.description", "persona.opposite", "persona.source")
"""Settings that tell a reader something and change nothing."""
_LONGEST = 40

Settings = dict[str, Any]


def settings(run: Run) -> Settings:
    """Return the configuration of a run as dotted key -> value, without what says where results go.

    ``evaluator`` lists the evaluators' names and ``calibration`` is the class of pairs' source, which has no name.
    """
    config = {key: value for key, value in run.config.items() if key not in ("tracker", "output_dir")}
    ordered = {key: config[key] for key in _GROUPS if key in config} | config
    flat = dict(_flatten(ordered, ""))
    target = flat.get("calibration._target_")
    flat = {key: value for key, value in flat.items() if not key.endswith("_target_")}
    if target is not None:
        flat["calibration"] = str(target).rpartition(".")[2]
    flat["evaluator"] = ", ".join(run.config["evaluator"])
    if flat["persona.name"] == "mix":
        flat["persona.name"] = run.persona.removesuffix("-flipped")
    return flat


def varying(runs: Sequence[Run]) -> list[str]:
    """Return the keys whose values differ among the runs that have them; those that name runs first.

    Left out are texts about the persona, what follows from the name of the model or from that of the persona and its
    side (a prompt, say), and a method's seed where it only repeats the run's.
    """
    all_settings = [settings(run) for run in runs]
    found = []
    for key in _keys(all_settings):
        values = {_identity(one[key]) for one in all_settings if key in one}
        if len(values) > 1 and key not in _ABOUT and not _follows(key, all_settings):
            found.append(key)
    return sorted(found, key=lambda key: _NAMED.index(key) if key in _NAMED else len(_NAMED))


def common(runs: Sequence[Run]) -> Settings:
    """Return the settings that all the runs share."""
    all_settings = [settings(run) for run in runs]
    first = all_settings[0]
    return {key: value for key, value in first.items() if all(key in s and s[key] == value for s in all_settings)}


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a short name for each run, made of what differs; no two are the same."""
    keys = varying(runs)
    used = [key for key in keys if key in _NAMED]
    # Short values first: a system prompt is no name.
    own = [settings(run) for run in runs]
    others = [key for key in keys if key not in _NAMED]
    others.sort(key=lambda key: max(len(text(one[key])) for one in own if key in one))
    parts = [list(used) for _ in runs]
    names = [_label(run, used) for run in runs]
    for key in others:
        for name in {name for name, count in Counter(names).items() if count > 1}:
            alike = [i for i, other in enumerate(names) if other == name]
            if len({_identity(own[i].get(key)) for i in alike}) > 1:
                for i in alike:
                    parts[i].append(key)
        names = [_label(run, part) for run, part in zip(runs, parts)]
    return numbered([name or run.path.name for name, run in zip(names, runs)])


def text(value: Any) -> str:
    """Return a setting as a reader would write it."""
    if isinstance(value, bool) or value is None or value == []:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.12g}"
    return ", ".join(text(part) for part in value) if isinstance(value, list) else str(value)


def shortened(value: str) -> str:
    """Return a text cut to the length that a name or a cell may have."""
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 3]}..."


def named(keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings that name runs, and the others."""
    return [key for key in keys if key in _NAMED], [key for key in keys if key not in _NAMED]


def numbered(names: Sequence[str]) -> list[str]:
    """Return the names; those that come several times with a number each."""
    total, seen, result = Counter(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if total[name] > 1 else name)
    return result


def _flatten(node: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _keys(all_settings: Sequence[Settings]) -> list[str]:
    return list(dict.fromkeys(key for one in all_settings for key in one))


def _follows(key: str, all_settings: Sequence[Settings]) -> bool:
    group, _, rest = key.partition(".")
    if group in ("model", "persona") and rest != "name":
        side = "persona.flip" if group == "persona" and rest != "flip" else f"{group}.name"
        having = [(one[f"{group}.name"], one.get(side), _identity(one[key])) for one in all_settings if key in one]
        return len(set(having)) == len({(name, which) for name, which, _ in having})
    if key == "method.seed":
        return all(one[key] == one.get("seed") for one in all_settings if key in one)
    return False


def _identity(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _label(run: Run, keys: Sequence[str]) -> str:
    own, parts = settings(run), []
    for key in keys:
        if key not in own or key == "persona.flip":
            continue  # the persona's part says so
        value = text(own[key])
        if key == "persona.name":
            value = run.persona
        elif key not in ("model.name", "method.name", "method.sparsity", "study", "evaluator"):
            value = f"{key.rpartition('.')[2]} {value}"
        parts.append(shortened(value))
    if "persona.flip" in keys and "persona.name" not in keys:
        parts.insert(0, run.persona)
    return " ".join(parts)
