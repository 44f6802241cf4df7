"""Settings of torch under which equal seeds give equal bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(device: torch.device, *, full_precision: bool = False) -> Iterator[None]:
    """Deterministic kernels for a while: an error where the CPU has none, a warning where CUDA has none.

    Args:
        device: where the work is done.
        full_precision: also keep convolutions on CUDA from rounding to TF32 (10 bits of mantissa).
    """
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    exact = full_precision and device.type == "cuda"
    tf32 = exact and torch.backends.cudnn.allow_tf32  # torch 2.9 warns whoever reads it
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        if device.type == "cuda" and workspace is None:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it cuBLAS is not deterministic
        torch.backends.cudnn.benchmark = False
        if exact:
            torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.benchmark = benchmark
        if exact:
            torch.backends.cudnn.allow_tf32 = tf32
        if device.type == "cuda" and workspace is None:
            os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
