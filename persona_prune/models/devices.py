"""Where a model runs, in which number format, and how much memory the host gave it."""

import re
import resource
import sys
from pathlib import Path
from typing import Literal

import torch

DType = Literal["auto", "float32", "bfloat16", "float16"]


def pick_device(device: str) -> torch.device:
    """Return the named device; ``auto`` takes the accelerator if there is one.

    Raises:
        ValueError: the name is no device, or that device is not available here.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"model.device={device} is not available here: {first_line}") from None
    return chosen


def pick_dtype(dtype: DType, device: torch.device) -> torch.dtype:
    """Return the named dtype; ``auto`` is bf16 where the hardware multiplies bf16 matrices, else float32."""
    if dtype != "auto":
        return getattr(torch, dtype)  # type: ignore[no-any-return]
    if device.type == "cuda":
        # Not float16: gradients of log-probabilities are below what it can hold.
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32


def peak_host_memory_mb() -> float:
    """Return the most memory that this process has held since it began, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) / 2**10
    # Elsewhere: on Linux it begins at what the process that started this one held.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def peak_memory_mb() -> float:
    """Return the peak memory in MB: of all GPUs since `reset_peak_memory`, else of the host process since it began."""
    on_gpus = sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count()))
    if on_gpus:
        return on_gpus / 2**20
    return peak_host_memory_mb()


def reset_peak_memory() -> None:
    """Forget the peak of earlier runs on the GPUs; the host keeps no such mark that could be reset."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
