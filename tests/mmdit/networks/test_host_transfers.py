"""A forward pass is work for the device alone: nothing is copied to it, and no value of it is waited for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

import mmdit
from mmdit.config.file import load_config
from mmdit.config.shipped import shipped_configs
from mmdit.sampling import guide, network_velocity, sample, timestep_grid
from mmdit_cli.memory.fake_tensors import fake_inputs, fake_parameters
from mmdit_cli.request.inputs import example_inputs
from mmdit_cli.request.tool_config import ToolConfig
from tests.support.fake_cuda import HostTransfers
from tests.support.marks import slow_but

SHIPPED = [name for name in shipped_configs() if "/" not in name]


def short(name: str, masked: bool = False, *overrides: str) -> ToolConfig:
    """A shipped config with two blocks of each kind."""
    model = load_config(name, ToolConfig).model
    changes = [f"model.depth={min(model.depth, 2)}"]
    changes += [f"run.mask.{modality}=0.5" for modality in model.modalities] if masked else []
    changes += ["model.single_stream.depth=2"] if model.single_stream is not None else []
    changes += ["model.attention.dual=[0]"] if model.attention.dual else []
    return load_config(name, ToolConfig, overrides=[*changes, *overrides])


def transfers(
    config: ToolConfig,
    device: torch.device,
    change: Callable[..., Any] = dict,
    dtype: torch.dtype = torch.float32,
) -> list[str]:
    """Those of one call, whose arguments are changed first."""
    net, given = network(config).to(dtype), example_inputs(config, device="meta", dtype=dtype).kwargs
    with FakeTensorMode(), torch.no_grad():
        fake_parameters(net, device)
        arguments = change(**fake_inputs(given, device))
        with HostTransfers() as transfers:
            net(**arguments)
    return transfers.found


def network(config: ToolConfig) -> Any:
    with torch.device("meta"):
        return mmdit.build(config.model)


@pytest.mark.parametrize("name", slow_but(SHIPPED, "flux.1-dev"))
def test_a_shipped_network_is_run_by_the_device_alone(name: str, fake_cuda: torch.device) -> None:
    assert transfers(short(name, masked=True), fake_cuda) == []


@pytest.mark.parametrize("name", slow_but(SHIPPED, "flux.2-dev"))
def test_it_is_so_without_masks(name: str, fake_cuda: torch.device) -> None:
    assert transfers(short(name), fake_cuda) == []


@pytest.mark.parametrize("dtype", slow_but([torch.float32, torch.bfloat16], torch.bfloat16), ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", slow_but(SHIPPED, "sd3.5-medium"))
def test_it_is_so_where_a_packing_is_given(
    name: str, dtype: torch.dtype, fake_cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision through torch's kernel for packed samples, which reads where they begin on the device."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert transfers(short(name, True, "model.varlen=true"), fake_cuda, dtype=dtype) == []


@pytest.mark.parametrize("varlen", slow_but([False, True], True), ids=["padded", "packed"])
@pytest.mark.parametrize("name", slow_but(("sd3-medium", "flux.2-dev", "qwen-image"), "qwen-image"))
def test_it_is_so_of_samples_of_different_sizes(name: str, varlen: bool, fake_cuda: torch.device) -> None:
    def ragged(inputs: dict[str, torch.Tensor], **given: Any) -> dict[str, Any]:
        image, text = inputs["image"], inputs["text"]
        return given | {"inputs": {"image": [image[0], image[1, :, 2:]], "text": [text[0], text[1, 2:]]}}

    config = short(name, False, "run.batch_size=2", f"model.varlen={str(varlen).lower()}")
    assert transfers(config, fake_cuda, ragged) == []


def test_a_step_of_a_sampler_asks_the_device_for_nothing(fake_cuda: torch.device) -> None:
    config = short("sd3-medium", False, "model.depth=1")
    net, given = network(config), example_inputs(config, device="meta").kwargs
    sigmas = timestep_grid(1)
    with FakeTensorMode(), torch.no_grad():
        fake_parameters(net, fake_cuda)
        inputs, pooled = (fake_inputs(given, fake_cuda)[key] for key in ("inputs", "pooled"))
        text, noise = {"text": inputs["text"]}, {"image": inputs["image"]}
        known = network_velocity(net, text, pooled=pooled, sigmas=sigmas)
        plain = network_velocity(net, text, pooled=pooled)
        with HostTransfers() as transfers:
            sample(lambda x, t: guide(known(x, t), plain(x, t), 4.0), noise, sigmas=sigmas, kind="heun")
    assert transfers.found == []


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.amax().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x + 1),
        lambda x: x.cpu(),
        lambda x: x + torch.tensor([1.0, 2.0], device=x.device),
        lambda x: x.copy_(torch.ones(3, 2)),
        lambda x: x[:, [1, 0]],
        lambda x: x[:, torch.tensor([1, 0])],
    ],
)
def test_what_waits_is_found(waits: Callable[[torch.Tensor], Any], fake_cuda: torch.device) -> None:
    no_value = suppress(DataDependentOutputException, DynamicOutputShapeException)  # has a fake tensor to give
    with FakeTensorMode(), HostTransfers() as transfers, no_value:
        waits(torch.empty(3, 2, device=fake_cuda))
    assert transfers.found and "test_host_transfers.py" in transfers.found[0]


def test_what_does_not_wait_is_left_alone(fake_cuda: torch.device) -> None:
    with FakeTensorMode(), HostTransfers() as transfers:
        x = torch.full((3, 2), 0.5, device=fake_cuda)
        x[:, 1] = 2.0
        x.masked_fill_(x > 1, 0.0).mul_(torch.tensor(3.0))
        x.index_select(0, torch.arange(2, device=fake_cuda)).bfloat16()
    assert transfers.found == []


def test_the_fake_device_changes_nothing_for_others(fake_cuda: torch.device) -> None:
    assert not torch.cuda.is_available() or torch.cuda._is_compiled()
    with pytest.raises((AssertionError, RuntimeError)) if not torch.cuda.is_available() else torch.no_grad():
        torch.ones(1, device=fake_cuda)
    weight = torch.ones(2, requires_grad=True)
    (weight * 3).sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [3.0, 3.0]
