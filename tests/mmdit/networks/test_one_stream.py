"""One stream from the start: no joint blocks, refiners that turn, places behind valid text, pad tokens."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import mmdit
from mmdit.layers.positions import ddpm_sinusoid
from mmdit.networks.pads import PadTokens, pack_with_pads
from mmdit.networks.places import RotaryPlaces
from mmdit.options import ModelOptions, OptionError, PadOptions
from mmdit.packing import Packing
from tests.support.draws import drawn, padded_mask, randn

MODEL = {
    "depth": 0,
    "modalities": {
        "text": {
            "dim": 16,
            "input": {"kind": "linear", "dim": 6},
            "pad": {"multiple": 4},
            "refiner": {"depth": 1, "conditioning": "none"},
            "rotary": {"axes": [0], "start": [1, 0, 0]},
        },
        "image": {
            "dim": 16,
            "input": {"kind": "patches", "channels": 2, "patch": 1, "positions": "none"},
            "pad": {"multiple": 4},
            "refiner": {"depth": 1},
            "output": {"kind": "patches", "channels": 2, "parts": "scale"},
            "rotary": {"axes": [1, 2], "after": "text", "after_axes": [0]},
        },
    },
    "single_stream": {"depth": 2, "kind": "sequential"},
    "discard": ["text"],
    "timestep": {"frequencies": 8, "hidden": 12},
    "dim_cond": 10,
    "heads": 4,
    "dim_head": 8,
    "attention": {"kv_heads": 2},
    "norm": {"kind": "rms", "weights": "plain", "place": "around"},
    "modulation": {"parts": "scale_gate", "gate": "tanh", "activation": "none"},
    "rotary": {"axes": [4, 2, 2]},
}


def changed(modality: str | None = None, model: dict | None = None, **values):
    new = copy.deepcopy(MODEL) | (model or {})
    if modality:
        new["modalities"][modality] |= values
    return {"model": new}


def made(**model):
    torch.manual_seed(5)
    return drawn(mmdit.build(changed(model=model))).eval()


def inputs(length=6):
    return {"text": randn(2, length, 6), "image": randn(2, 2, 2, 3)}


def test_there_are_no_joint_blocks_and_every_weight_is_used():
    net = made()
    assert not len(net.transformer.blocks) and len(net.transformer.single_blocks) == 2
    out = net(inputs(), torch.rand(2).double())["image"]
    (out * torch.randn_like(out)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("shared", [False, True])
def test_without_joint_blocks_they_have_no_modulations(shared):
    net = mmdit.build(changed(model={"modulation": {"shared": shared}}))
    assert not len(net.transformer.shared_modulations)
    assert (net.transformer.shared_single_modulation is not None) == shared


@pytest.mark.parametrize("how", ["padded", "packed", "packing", "lists", "packed lists"])
def test_padding_of_the_text_changes_nothing(how):
    net = made(varlen=how.startswith("packed"))
    xs, t = inputs(), torch.rand(2).double()
    lengths = (6, 3)
    wanted = [
        net({"text": xs["text"][i : i + 1, :n], "image": xs["image"][i : i + 1]}, t[i : i + 1])["image"]
        for i, n in enumerate(lengths)
    ]
    if "lists" in how:
        got = torch.stack(
            net({"text": [x[:n] for x, n in zip(xs["text"], lengths, strict=True)], "image": [*xs["image"]]}, t)[
                "image"
            ]
        )
    else:
        mask = padded_mask(6, *lengths)
        masks = Packing.from_masks([mask, None], [6, 6], 2) if how == "packing" else {"text": mask}
        xs["text"] = torch.where(mask[..., None], xs["text"], torch.nan)
        got = net(xs, t, masks=masks)["image"]
    torch.testing.assert_close(got, torch.cat(wanted))


@pytest.mark.parametrize("how", ["padded", "packed", "packing", "lists"])
@pytest.mark.parametrize("reads", ["a refiner's mean, an output's neighbours", "a timestep of each token"])
def test_pad_tokens_are_no_part_of_what_is_given(reads, how):
    """What is read of the tokens that are given is that of each sample alone, with pads among the longest's or not."""
    by_token, t = reads == "a timestep of each token", torch.rand(2).double() * 900
    refiner = {"depth": 1, "conditioning": "network" if by_token else "own"}
    output = {"kind": "linear", "dim": 3, "kernel": 1 if by_token else 3}
    torch.manual_seed(7)
    config = changed("text", {"discard": [], "varlen": how == "packed"}, refiner=refiner, output=output)
    net = drawn(mmdit.build(config)).eval()
    xs, lengths, timesteps = inputs(), (6, 3), {"text": torch.rand(2, 8).double() * 900, "image": t}

    def of(i, n):
        given = {"text": xs["text"][i : i + 1, :n], "image": xs["image"][i : i + 1]}
        each = {"text": timesteps["text"][i : i + 1, : 8 if n == 6 else 4], "image": t[i : i + 1]}
        return net(given, each if by_token else t[i : i + 1])

    wanted = [of(i, n) for i, n in enumerate(lengths)]
    mask = padded_mask(6, *lengths)
    masks = Packing.from_masks([mask, None], [6, 6], 2) if how == "packing" else {"text": mask}
    given = {"text": [x[:n] for x, n in zip(xs["text"], lengths, strict=True)], "image": [*xs["image"]]}
    got = net(given if how == "lists" else xs, timesteps if by_token else t, masks=None if how == "lists" else masks)
    for i, n in enumerate(lengths):
        torch.testing.assert_close(got["text"][i][:n], wanted[i]["text"][0])
        torch.testing.assert_close(got["image"][i], wanted[i]["image"][0])


@pytest.mark.parametrize("how", ["padded", "packed", "packing"])
@pytest.mark.parametrize("last", ["image", "text"])
def test_pad_tokens_that_stand_among_an_images_masked_ones_have_no_place_on_its_grid(last, how):
    torch.manual_seed(8)
    config = changed("image", {"varlen": how == "packed"}, rotary={"axes": [1, 2]})
    config["model"]["modalities"]["text"]["rotary"] = {"axes": [1]}
    first = "text" if last == "image" else "image"
    config["model"]["modalities"][last]["rotary"]["after"] = first
    net = drawn(mmdit.build(config)).eval()
    t, text, image = torch.rand(2).double(), randn(2, 3, 6), randn(2, 2, 6, 1)
    mask = padded_mask(6, 6, 2)
    masks = Packing.from_masks([None, mask], [3, 6], 2) if how == "packing" else {"image": mask}
    got = net({"text": text, "image": image}, t, masks=masks)["image"]
    torch.testing.assert_close(got[:1], net({"text": text[:1], "image": image[:1]}, t[:1])["image"])
    alone = net({"text": text[1:], "image": image[1:, :, :2]}, t[1:])["image"]
    torch.testing.assert_close(got[1:, :, :2], alone)


def test_images_of_several_sizes_are_filled_up_each_for_itself():
    net, t = made(), torch.rand(2).double()
    text, images = randn(2, 3, 6), [randn(2, 2, 3), randn(2, 3, 5)]
    got = net({"text": [*text], "image": images}, t)["image"]
    for i, image in enumerate(images):
        alone = net({"text": text[i : i + 1], "image": image[None]}, t[i : i + 1])["image"]
        torch.testing.assert_close(got[i], alone[0])


def test_pad_tokens_fill_up_what_is_valid_and_no_more():
    pad = drawn(PadTokens(PadOptions(multiple=4), 3))
    x, mask = randn(4, 6, 3), padded_mask(6, 6, 4, 3, 0)
    filled, valid = pad(x, mask)
    assert torch.equal(valid, padded_mask(8, 8, 4, 4, 0))
    for row, length in enumerate((6, 4, 3, 0)):
        assert torch.equal(filled[row, :length], x[row, :length])
        assert (filled[row, length : 4 * -(-length // 4)] == pad.token).all()
    whole, none = pad(x, None)
    assert none is None and torch.equal(whole[:, :6], x) and (whole[:, 6:] == pad.token).all()
    exact, _ = pad(x[:, :4], None)
    assert torch.equal(exact, x[:, :4])


def test_pad_tokens_take_the_first_places_that_a_mask_leaves_out():
    x, mask = randn(2, 5, 3), torch.tensor([[1, 0, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
    pad = drawn(PadTokens(PadOptions(multiple=4), 3))
    filled, valid = pad(x, mask)
    assert valid.tolist() == [[True] * 4 + [False] * 4, [True, False, True, True, True] + [False] * 3]
    assert [row.nonzero().flatten().tolist() for row in (filled == pad.token).all(-1)] == [[1, 3], [0]]
    packing = pack_with_pads(Packing.from_masks([mask, None], [5, 6], 2), [valid, None], [4, None])
    wanted = Packing.from_masks([valid, None], [8, 6], 2)
    assert (packing.lengths, packing.padded) == (wanted.lengths, wanted.padded)
    assert torch.equal(packing.index[0], wanted.index[0]) and packing.index[1] is None


def test_an_image_stands_behind_the_valid_text_and_its_pad_tokens_at_0():
    places = RotaryPlaces(ModelOptions(**mmdit.build(changed()).config.__dict__))
    mask = padded_mask(8, 8, 4)
    text, image = places(inputs(), valid={"text": mask})
    assert text.tolist() == [[i + 1, 0, 0] for i in range(8)]
    assert image.shape == (2, 8, 3)
    for row, start in enumerate((9, 5)):
        grid = [[start, h, w] for h in range(2) for w in range(3)]
        assert image[row].tolist() == grid + [[0, 0, 0]] * 2
    assert torch.equal(places(inputs())[1], image[0])


def test_behind_a_text_of_which_nothing_is_valid_an_image_begins_at_0():
    config = changed("text", rotary={"axes": [0]})
    places = RotaryPlaces(mmdit.build(config).config)
    _, image = places(inputs(), valid={"text": padded_mask(8, 8, 0)})
    assert image[:, 0, 0].tolist() == [8, 0]


def test_a_refiner_turns_where_its_modality_does():
    net, xs, t = made(), inputs(), torch.rand(2).double()
    kept = []
    net.refiners["text"].register_forward_hook(lambda *call: kept.append(call[-1]))
    net(xs, t)
    net.refiners["text"].transformer.rotary.theta = 7.0
    net(xs, t)
    net.places.modalities = mmdit.build(changed("text", rotary={"axes": [1]})).config.modalities
    net(xs, t)
    assert not any(torch.allclose(a, b) for a, b in ((kept[0], kept[1]), (kept[1], kept[2])))


def test_a_modulation_known_before_gives_the_same():
    net, xs, t = made(), inputs(), torch.tensor([300.0, 20.0]).double()
    for step, modulation in zip(t, net.precompute_modulation(t), strict=True):
        wanted = net(xs, step.expand(2))["image"]
        torch.testing.assert_close(net(xs, modulation=modulation)["image"], wanted)
        listed = {name: [*x] for name, x in xs.items()}
        torch.testing.assert_close(torch.stack(net(listed, modulation=modulation)["image"]), wanted)


def test_the_timesteps_vector_may_be_narrowed_and_its_waves_be_ddpms():
    net = made(timestep={"frequencies": 8, "dim": 14, "hidden": 12, "waves": "ddpm", "scale": 10})
    embed, t = net.time_embed, torch.tensor([0.3, 0.7]).double()
    hidden = F.silu(embed.linear_in(ddpm_sinusoid(t.float() * 10, 8).double()))
    torch.testing.assert_close(embed(t), F.silu(embed.narrowed[0](embed.linear_out(hidden))))
    assert embed.linear_out.weight.shape == (14, 12) and embed(t).shape == (2, 10)


def test_an_inputs_norm_has_an_eps_of_its_own():
    text = {"kind": "linear", "dim": 6, "norm": "rms"}
    own, networks = (
        mmdit.build(changed("text", {"norm_eps": 1e-2}, input=text | more)).inputs["text"].norm.eps
        for more in ({"norm_eps": 1e-6}, {})
    )
    assert (own, networks) == (1e-6, 1e-2)


def test_every_modality_may_have_a_type():
    config = changed("text", type_embedding=True)
    config["model"]["modalities"]["image"]["type_embedding"] = True
    torch.manual_seed(5)
    net, plain = drawn(mmdit.build(config)).eval(), made()
    plain.load_state_dict({name: x for name, x in net.state_dict().items() if "type_embeds" not in name})
    entered, xs, t = {}, inputs(), torch.rand(2).double()
    for each, key in ((net, "typed"), (plain, "plain")):
        each.transformer.register_forward_pre_hook(
            lambda _, args, given, key=key: entered.update({key: given["modality_tokens"]}), with_kwargs=True
        )
        each(xs, t)
    for name, typed, bare in zip(("text", "image"), entered["typed"], entered["plain"], strict=True):
        torch.testing.assert_close(typed, bare + net.type_embeds[name].weight)


# ------------------------------------------------------------------------- parallel blocks, each modality for itself


PARALLEL = {
    "norm": {},
    "modulation": {"shared": True},
    "attention": {},
    "single_stream": {"depth": 2, "kind": "parallel", "modulation": "by_modality"},
    "rotary": {"axes": [4, 2, 2]},
}
REFERENCES = {"axis": 0, "clean": True, "own": True}


def parallel(text=None, image=None, **model):
    config = changed(model=PARALLEL | model)
    for name, refined, change in (("text", True, text), ("image", False, image)):
        modality = config["model"]["modalities"][name]
        modality |= {"pad": None, "refiner": {"depth": 1, "kind": "parallel"} if refined else None} | (change or {})
    torch.manual_seed(6)
    return drawn(mmdit.build(config)).eval()


def filled_from(net, other, *renamed):
    """With the weights of another, of which some go by other names here."""
    state = other.state_dict()
    for ours, theirs in renamed:
        state |= {ours + n.removeprefix(theirs): x for n, x in other.state_dict().items() if n.startswith(theirs)}
    net.load_state_dict({name: state[name] for name in net.state_dict()})
    return net


EACH = PARALLEL | {
    "modulation": {},
    "single_stream": {"depth": 2, "kind": "sequential", "modulation": "by_modality"},
    "attention": {"qk_layernorm": True},
}


def each_block(**model):
    """With a modulation of each modality in every block."""
    return parallel(**{**EACH, **model})


def test_one_modulation_a_modality_and_block_is_the_blocks_where_they_are_equal():
    joined = each_block(single_stream={"depth": 2, "kind": "sequential"})
    blocks = [f"transformer.single_blocks.{n}.modulations." for n in range(2)]
    net = filled_from(each_block(), joined, *((f"{at}{i}.", f"{at}0.") for at in blocks for i in range(2)))
    xs, t = inputs(), torch.rand(2).double() * 900
    for given in (t, {"text": t * 0.5, "image": t}, {"text": t, "image": t[:, None] * torch.rand(6)}):
        torch.testing.assert_close(net(xs, given)["image"], joined(xs, given)["image"])
        drawn(net.transformer.single_blocks[1].modulations[0])
        assert not torch.allclose(net(xs, given)["image"], joined(xs, given)["image"])
        net = filled_from(net, joined, *((f"{at}{i}.", f"{at}0.") for at in blocks for i in range(2)))


@pytest.mark.parametrize("by_token", [False, True], ids=["by sample", "by token"])
@pytest.mark.parametrize("varlen", [False, True], ids=["padded", "packed"])
def test_where_each_modality_is_modulated_for_itself_padding_changes_nothing(varlen, by_token):
    net = each_block(varlen=varlen, register_tokens=0 if by_token else 2)
    xs, lengths, t = inputs(), (6, 3), torch.rand(2, 6).double() * 900
    times = {"text": t if by_token else t[:, 0], "image": t[:, 1]}
    got = net(xs, times, masks={"text": padded_mask(6, *lengths)})["image"]
    for i, n in enumerate(lengths):
        alone = {"text": xs["text"][i : i + 1, :n], "image": xs["image"][i : i + 1]}
        own = {"text": times["text"][i : i + 1], "image": times["image"][i : i + 1]}
        own["text"] = own["text"][:, :n] if by_token else own["text"]
        torch.testing.assert_close(got[i], net(alone, own)["image"][0])


def test_a_block_whose_kinds_of_tokens_are_modulated_apart_wants_their_modulations():
    (block, _) = each_block().transformer.single_blocks
    assert block.kinds == ("text", "image") and len(block.modulations) == 2
    with pytest.raises(ValueError, match="or one of several kinds of tokens; pass modulations"):
        block(modality_tokens=[randn(2, 5, 16)], time_cond=randn(2, 10))


def test_rows_and_columns_are_spread_over_a_span():
    image = {"dim": 16, "input": {"kind": "patches", "channels": 2, "patch": [1, 1, 1], "positions": "none"}}
    config = changed("image", **image, pad=None, output=None, refiner=None, rotary={"axes": [0, 1, 2], "span": 10})
    config["model"] |= {"discard": []}
    places = RotaryPlaces(mmdit.build(config).config)
    _, video = places({"text": randn(1, 4, 6), "image": randn(1, 2, 2, 3, 20)})
    assert video.view(2, 3, 20, 3)[1, :, 0].tolist() == [[1, h, 0] for h in (0, 3, 6)]
    assert video.view(2, 3, 20, 3)[0, 2, :, 2].tolist() == [w // 2 for w in range(20)]


KINDS = "transformer.shared_single_modulations"
JOINED = "transformer.shared_single_modulation."


def test_one_modulation_a_modality_is_that_of_all_where_they_are_equal():
    joined = parallel(single_stream={"depth": 2, "kind": "parallel"})
    net = filled_from(parallel(), joined, *((f"{KINDS}.{i}.", JOINED) for i in range(2)))
    xs, t = inputs(), torch.rand(2).double()
    torch.testing.assert_close(net(xs, t)["image"], joined(xs, t)["image"])


def test_a_modality_at_timestep_0_has_it_whatever_the_others_have():
    net, plain = parallel({"clean": True}), parallel()
    xs, t = inputs(), torch.rand(2).double() * 900
    wanted = plain(xs, {"text": torch.zeros(2).double(), "image": t})["image"]
    torch.testing.assert_close(net(xs, t)["image"], wanted)
    torch.testing.assert_close(net(xs, {"text": t, "image": t})["image"], wanted)
    for step, modulation in zip(t, net.precompute_modulation(t), strict=True):
        torch.testing.assert_close(net(xs, modulation=modulation)["image"], net(xs, step.expand(2))["image"])


def test_references_with_weights_of_their_own_are_as_the_others_where_these_are_equal():
    rotary = {"axes": [1, 2]}
    shared = parallel(image={"rotary": rotary, "references": REFERENCES | {"own": False}})
    renamed = [(f"{KINDS}.1.kinds.{i}.", f"{KINDS}.1.") for i in range(2)]
    renamed.append(("reference_inputs.image.", "inputs.image."))
    net = filled_from(parallel(image={"rotary": rotary, "references": REFERENCES}), shared, *renamed)
    xs, t, references = inputs(), torch.rand(2).double(), {"image": [randn(2, 2, 3, 2), randn(2, 2, 1, 2)]}
    wanted = shared(xs, t, references=references)["image"]
    torch.testing.assert_close(net(xs, t, references=references)["image"], wanted)
    alone = net(xs, t)["image"]
    for module in (net.reference_inputs["image"], net.transformer.shared_single_modulations[1].kinds[1]):
        drawn(module)
        assert not torch.allclose(net(xs, t, references=references)["image"], wanted)
    assert torch.equal(net(xs, t)["image"], alone)


@pytest.mark.parametrize("rows", [1, 2])
def test_references_with_a_modulation_of_their_own_go_with_one_timestep_for_each_sample(rows):
    net = parallel(image={"rotary": {"axes": [1, 2]}, "references": REFERENCES})
    t, xs = torch.rand(2).double(), {"text": randn(2, 6, 6), "image": randn(2, 2, rows, 2)}
    with pytest.raises(ValueError, match="image: a vector for each token does not go with references.own"):
        net(xs, {"text": t, "image": t[:, None].expand(-1, 2 * rows)})


def test_a_refiner_without_a_norm_of_queries_and_keys_reads_no_eps_of_the_networks():
    refiner = {"depth": 1, "conditioning": "none", "qk_rmsnorm": False}
    attention = {"attention": {"qk_norm_eps": 0.1}, "qk_rmsnorm": True}
    net = mmdit.build(changed("text", attention, refiner=refiner))
    assert not [name for name, _ in net.refiners["text"].named_parameters() if "q_norm" in name]


def test_references_are_refined_together_by_blocks_of_their_own_at_their_places():
    refiner = {"depth": 1, "kind": "parallel"}
    net = parallel(image={"rotary": {"axes": [1, 2]}, "references": REFERENCES, "refiner": refiner})
    xs, t, given = inputs(), torch.rand(2).double(), [randn(2, 2, 3, 2), randn(2, 2, 1, 2)]
    calls = []
    net.reference_refiners["image"].register_forward_hook(lambda *call: calls.append(call[1:]))
    net(xs, t, references={"image": given})
    (((x, _, mask, _, cond, places), refined),) = calls
    embed = net.reference_inputs["image"]
    torch.testing.assert_close(x, torch.cat([embed(image, "") for image in given], 1))
    torch.testing.assert_close(cond, net.time_embed(torch.zeros(2).double(), torch.float64))
    assert mask is None and refined.shape == x.shape
    assert places.tolist() == [[1, h, w] for h in range(3) for w in range(2)] + [[2, 0, w] for w in range(2)]
    (modulation,) = net.precompute_modulation(t[:1])
    wanted = net(xs, t[:1].expand(2), references={"image": given})["image"]
    torch.testing.assert_close(net(xs, modulation=modulation, references={"image": given})["image"], wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(model={"single_stream": None}), "depth: there would be no block at all"),
        (changed(model={"attention": {"kv_heads": 3}}), "kv_heads: each head of keys and values serves as many"),
        (
            changed(model={"attention": {"kv_heads": 2, "kind": "adaptive", "num_adaptive_weights": 2}}),
            "kv_heads: adaptive weights are mixed for each head",
        ),
        (changed(model={"norm": {"weights": "zero_centred"}}), "norm.weights: zero_centred"),
        (changed(model={"adaln": "identity", "modulation": {"gate": "tanh"}}), "modulation.gate"),
        (changed("image", rotary={"axes": [1, 2], "after_axes": [0]}), "set after as well"),
        (changed("image", rotary={"axes": [1, 2], "after": "text", "after_axes": [3]}), "axis 3 does not exist"),
        (changed("image", references={"axis": 0}), "pad: pad tokens stand behind"),
        (
            changed(model={"single_stream": {"depth": 1, "modulation": "by_modality"}}),
            "single_stream.modulation: in parallel blocks each modality has one for all",
        ),
        (
            changed(model=PARALLEL | {"modulation": {}, "dim_cond": None, "timestep": None}),
            "single_stream.modulation: it comes from the conditioning vector",
        ),
        (
            changed("image", model=EACH, pad=None, refiner=None, references=REFERENCES),
            "references.own: .* and modulation: {shared: true}",
        ),
        (changed("text", rotary={"axes": [0], "span": 8}), "rotary.span: span is for images"),
        (changed("image", rotary={"axes": [1, 2], "span": 8, "centered": True}), "rotary.span: rows are centered or"),
        (
            changed("image", model=PARALLEL, pad=None, references=REFERENCES | {"clean": False}),
            "references.own: .* set clean: true",
        ),
        (changed("text", model={"timestep": None, "dim_cond": None}, clean=True), "clean: there is no timestep"),
        (changed("text", refiner={"depth": 1, "dim_head": 4}), "refiner.rotary.axes"),
        (
            changed("text", refiner={"depth": 1, "feedforward": {"kernel": {"text": 3}}}),
            "feedforward.kernel: a refiner",
        ),
        (
            changed("text", refiner={"depth": 1, "attention": {"out_kernel": {"b": 3}}}),
            "attention.out_kernel: a refiner",
        ),
        (
            changed("text", conditions={"sync": {"kind": "linear", "dim": 4}}),
            "text.pad: pad tokens stand .* and no references, inputs or conditions",
        ),
        (changed(model={"skip_last_feedforward": ["text"]}), "skip_last_feedforward: depth is 0"),
        (changed(model={"unused_weights": "all"}), "unused_weights: depth is 0"),
        (
            changed(model={"single_stream": {"depth": 1, "modalities": ["image"]}}),
            "single_stream.modalities: depth is 0, so text would be in no block",
        ),
        (changed(model={"attention": {"qk_norm_eps": 0.1}}), "attention.qk_norm_eps: queries and keys have no norm"),
        (changed(model={"timestep": {"waves": "ddpm", "fastest": 10}}), "timestep.waves: fastest says which"),
        (changed(model={"timestep": {"waves": "ddpm", "frequencies": 2}}), "timestep.frequencies: .* 4 or more, got 2"),
        (changed(model={"timestep": None, "dim_cond": None}), "image.output.parts: it comes from the conditioning"),
        *(
            (
                changed("text", **{end: {"kind": kind, "dim": 6, **norm, "norm_eps": 0.1}}),
                f"{end}.norm_eps: there is no",
            )
            for end, kind, norm in (
                ("input", "linear", {}),
                ("input", "mlp", {"hidden": [4]}),
                ("output", "linear", {"norm": False}),
            )
        ),
        (
            changed("image", output={"kind": "patches", "channels": 2, "norm": False, "norm_eps": 0.1}),
            "output.norm_eps: there is no norm",
        ),
    ],
)
def test_options_that_contradict_one_another_are_refused(change, message):
    with pytest.raises((OptionError, ValueError), match=message):
        mmdit.build(change)
