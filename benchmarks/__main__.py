"""``make bench [ARGS="--only signature,mask"]``: every benchmark, ratios printed last."""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

LINES = ("signature", "mask", "disk", "switch", "masked", "choice", "taylor", "sweep", "start_up", "memory")
_WITH_RUNS = ("disk", "sweep", "start_up", "memory")  # they start runs or processes, which models of a shape can't have
_README = Path(__file__).parent / "README.md"


def main(arguments: Sequence[str]) -> int:
    """Measure what is asked for; return 0, also where a target is missed, 1 for a failure, 2 for bad input."""
    options = _parser().parse_args(arguments)
    with _cache_of_its_own():
        try:
            return _measure(options)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1


def _measure(options: argparse.Namespace) -> int:
    # Only here: what is mistyped should be told at once, and the cache be set before anything reads it.
    import torch

    from benchmarks import rows
    from benchmarks.setting import Setting, spec
    from benchmarks.shapes import SHAPES

    models = [options.model or ("tiny_random" if options.quick else "smollm2_135m")]
    if torch.cuda.is_available() and not options.model and not options.quick:
        models.append("llama3_8b_shape")
    tables: dict[str, list[rows.Row]] = {}
    for model in models:
        loaded = spec(model, options.dtype).load()
        setting = Setting(model, options.dtype, loaded, options.quick, options.full, options.rounds, _say)
        tables[model] = []
        for line in options.only:
            if model in SHAPES and line in _WITH_RUNS:
                continue
            started = time.perf_counter()
            found = importlib.import_module(f"benchmarks.{line}").measure(setting)
            _say(f"{model}: {line} took {time.perf_counter() - started:.0f} s")
            tables[model] += found
    settings = {key: value for key, value in vars(options).items() if key not in ("output", "write_table")}
    path = rows.write(options.output, tables, settings)
    for model, found in tables.items():
        print(f"{model}: median [smallest, largest] of the rounds")
        print(*(rows.text_line(row) for row in found), sep="\n")
    print(f"figures: {path}")
    if options.write_table:
        pages = [rows.markdown(model, found) for model, found in tables.items()]
        rows.put_between_markers(_README, "\n\n".join(pages))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed, memory and size.")
    parser.add_argument("--only", type=_lines, default=LINES, help=f"some of {','.join(LINES)}")
    parser.add_argument("--rounds", type=_positive, default=4, help="paired rounds of every comparison")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few items: to see that it works")
    parser.add_argument("--full", action="store_true", help="whole references and the whole sweep: much longer")
    parser.add_argument("--model", help="one of conf/model, or llama3_8b_shape: random weights of that shape")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), help="directory of the results")
    parser.add_argument("--write-table", action="store_true", help="put the table into benchmarks/README.md")
    return parser


def _lines(text: str) -> tuple[str, ...]:
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in LINES:
            raise argparse.ArgumentTypeError(f"no benchmark {name!r}; there is {', '.join(LINES)}")
    return tuple(name for name in LINES if name in asked)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def _cache_of_its_own() -> Iterator[None]:
    """Keep everything but the models in a cache that begins empty, so that nothing measured was there before."""
    from persona_prune.common.cache import cache_root

    shared = cache_root() / "models"
    shared.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("PERSONA_PRUNE_CACHE")
    with TemporaryDirectory() as own:
        (Path(own) / "models").symlink_to(shared.resolve(), target_is_directory=True)
        os.environ["PERSONA_PRUNE_CACHE"] = own
        try:
            yield
        finally:
            if before is None:
                del os.environ["PERSONA_PRUNE_CACHE"]
            else:
                os.environ["PERSONA_PRUNE_CACHE"] = before


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
