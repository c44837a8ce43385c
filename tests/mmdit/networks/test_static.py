"""A modality that gives keys and values alone."""

from __future__ import annotations

import pytest
import torch

import mmdit
from mmdit.networks.block import MMDiTBlock
from mmdit.options import OptionError
from tests.support.draws import drawn, padded_mask, randn
from tests.support.marks import slow_but

MODEL = {
    "depth": 3,
    "modalities": {
        "text": {"dim": 12, "input": {"kind": "linear", "dim": 6}, "static": True},
        "image": {
            "dim": 16,
            "input": {"kind": "patches", "channels": 2, "patch": 1, "max_size": 8},
            "output": {"kind": "patches", "channels": 2},
        },
    },
    "discard": ["text"],
    "timestep": {"frequencies": 8},
    "dim_cond": 10,
    "heads": 2,
    "dim_head": 8,
    "qk_rmsnorm": True,
}
ONE_WIDTH = {"text": {"dim": 8, "static": True}, "image": {"dim": 8}}
VARIANTS = {
    "plain": {},
    "shared modulation": {"modulation": {"shared": True}},
    "streams": {"residual": {"kind": "hyper_connections", "streams": 2}},
    "output gates": {"attention": {"out_gate": True}},
    "checkpointed": {"checkpoint_activations": True},
    "register tokens": {"register_tokens": 2},
}


def made(**model):
    torch.manual_seed(3)
    return drawn(mmdit.build({"model": MODEL | model}))


def inputs():
    return {"text": randn(2, 6, 6), "image": randn(2, 2, 2, 3)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_is_used_and_none_is_of_a_norm_a_modulation_or_a_query_of_it(variant):
    net, xs = made(**VARIANTS[variant]), inputs()
    out = net(xs, torch.rand(2).double())["image"]
    (out * torch.randn_like(out)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    for block in net.transformer.blocks:
        of_text = {name.split(".0.")[0] for name, _ in block.named_parameters() if ".0." in name}
        assert of_text <= {"joint_attn.to_qkv", "joint_attn.k_norms", "attn_residuals"}


def test_every_block_reads_what_was_embedded():
    net, xs = made(), inputs()
    read = []
    for block in net.transformer.blocks:
        block.joint_attn.to_qkv[0].register_forward_pre_hook(lambda module, args: read.append(args[0]))
    net(xs, torch.rand(2).double())
    embedded = net.inputs["text"](xs["text"], "text")
    assert len(read) == 3 and all(torch.equal(x, embedded) for x in read)


@pytest.mark.parametrize("varlen", slow_but([False, True], True), ids=["padded", "packed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_nothing(variant, varlen):
    net, xs, t = made(varlen=varlen, **VARIANTS[variant]), inputs(), torch.rand(2).double()
    mask = padded_mask(6, 6, 3)
    given = xs | {"text": torch.where(mask[..., None], xs["text"], torch.nan)}
    got = net(given, t, masks={"text": mask})["image"]
    for i, n in enumerate((6, 3)):
        alone = {"text": xs["text"][i : i + 1, :n], "image": xs["image"][i : i + 1]}
        torch.testing.assert_close(got[i], net(alone, t[i : i + 1])["image"][0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"discard": []}, "text.static: no block updates it; set discard: .text."),
        (
            {"single_stream": {"depth": 1}, "modalities": MODEL["modalities"] | {"image": {"dim": 12}}},
            "text.static: the",
        ),
        ({"unused_weights": "all"}, "text.static: it has no unused weights"),
    ],
)
def test_what_contradicts_it_is_refused(model, message):
    with pytest.raises((OptionError, mmdit.config.ConfigError), match=message):
        mmdit.build({"model": MODEL | model})


def test_a_block_discards_what_is_static():
    with pytest.raises(ValueError, match="name them in discard as well"):
        MMDiTBlock(dim_modalities=(8, 8), static=[0])
