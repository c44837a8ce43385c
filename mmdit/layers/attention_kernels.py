"""Which of torch's attention kernels to take on a CUDA device, where torch's own order is not the best."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import attention as torch_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

FLASH_FIRST = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
WITHOUT_CUDNN = tuple(kernel for kernel in FLASH_FIRST if kernel != SDPBackend.CUDNN_ATTENTION)


def choosing_kernels(q: Tensor, k: Tensor, v: Tensor, *, masked: bool) -> AbstractContextManager[Any]:
    """Within it, `scaled_dot_product_attention` takes the kernels of `fused_kernels`. A GPU is not waited for."""
    if q.device.type != "cuda":
        return nullcontext()
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    kernels = fused_kernels(q.device, masked, training)
    if kernels is None or not torch.backends.cuda.cudnn_sdp_enabled():  # without cuDNN, torch's order is right
        return nullcontext()
    return sdpa_kernel(list(kernels), set_priority=True)


def fused_kernels(device: torch.device, masked: bool, training: bool) -> Sequence[SDPBackend] | None:
    """The kernels that attention on a CUDA device may take, the best first; None leaves the choice to torch.

    On compute capability 9.0, torch from 2.11 on takes cuDNN's first. Its backward pass can give NaN with a mask
    (pytorch/pytorch#196678), so it is left out where both are asked for. Without a mask FlashAttention 3 goes before
    it, where `torch.nn.attention` has it (torch 2.11 and later, package `flash_attn_interface`): it is activated here,
    for this process, unless an implementation is active already.

    The answer is found once for each device; a compiled graph holds it as a constant.
    """
    return _fused_kernels(device, masked, training)


fused_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]  # `assume_constant_result` would import the compiler


@cache
def _fused_kernels(device: torch.device, masked: bool, training: bool) -> Sequence[SDPBackend] | None:
    if torch_release() < (2, 11) or capability(device) != (9, 0):
        return None
    if masked:  # which flash attention does not take
        return WITHOUT_CUDNN if training else None
    return FLASH_FIRST if _has_flash3() else None


def varlen_kernel(q: Tensor) -> Callable[..., Any] | None:
    """torch's kernel for segments, where there is one: CUDA from compute capability 8.0 on, half precision, heads of a
    multiple of 8 up to 256, torch 2.10 and later."""
    if q.device.type != "cuda" or q.dtype not in (torch.float16, torch.bfloat16):
        return None
    if q.shape[-1] % 8 or q.shape[-1] > 256 or capability(q.device) < (8, 0):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def capability(device: torch.device) -> tuple[int, int]:
    """The device's compute capability; (0, 0) where fake tensors are on a device that this machine has not.

    A compiler folds what this calls; `get_device_capability` breaks its graph.
    """
    if not torch.cuda.is_available():
        return 0, 0
    properties = torch.cuda.get_device_properties(device)
    return properties.major, properties.minor


def torch_release() -> tuple[int, int]:
    """Of "2.13.0+cu130": (2, 13)."""
    major, minor = re.findall(r"\d+", torch.__version__)[:2]
    return int(major), int(minor)


def _has_flash3() -> bool:
    """Whether FlashAttention 3 (or what the user has activated in its place) is active, or can be activated: it takes
    compute capability 9.0 alone, and is of the whole process, so every device has to be so."""
    if not hasattr(torch_attention, "current_flash_attention_impl"):
        return False
    if torch_attention.current_flash_attention_impl() is not None:
        return True
    devices = (torch.device("cuda", i) for i in range(torch.cuda.device_count()))
    if importlib.util.find_spec("flash_attn_interface") is None or any(capability(one) != (9, 0) for one in devices):
        return False
    try:
        torch_attention.activate_flash_attention_impl("FA3")
    except (ImportError, OSError, RuntimeError, ValueError):  # built for another torch or CUDA, or without a backward
        return False
    return True
