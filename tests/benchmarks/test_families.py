from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch.utils._pytree import tree_map_only

import mmdit
from benchmarks.families.comparison import (
    CALLS,
    block_outputs,
    call_theirs,
    gradient_errors,
    ours_of,
    output_error,
    random_call,
    random_theirs,
    relative,
)
from benchmarks.families.diffusers_networks import BY_NAME, FAMILIES
from benchmarks.families.document import size
from benchmarks.families.one_stream import ONE_STREAM
from mmdit.sampling import network_velocity, sample
from tests.support.marks import slow_but
from tests.support.paths import REPORTS

OUTPUT, GRADIENT = 1e-5, 1e-4

QUICK = (
    "sd3.5-medium",
    "qwen-image-layered",
    "flux.1-dev",
    "hunyuan-image-2.1",
    "hunyuan-video-1.5",
    "flux.2-dev",
    "auraflow",
    "lumina-image-2.0",
    "z-image",
    "joyimage-edit",
    "flux.3-klein",
)
SOME = ("flux.1-dev", "hunyuan-video-1.5")
each_family = pytest.mark.parametrize("family", slow_but(FAMILIES, *(BY_NAME[name] for name in QUICK)), ids=str)
some_families = pytest.mark.parametrize("family", slow_but(FAMILIES, *(BY_NAME[name] for name in SOME)), ids=str)


@pytest.mark.parametrize("family", slow_but(FAMILIES, BY_NAME["sd3.5-medium"], BY_NAME["flux.1-dev"]), ids=str)
def test_a_shipped_config_has_the_published_parameters_which_diffusers_has_too(family):
    with torch.device("meta"):
        ours, theirs = mmdit.build(f"configs/{family.config}.yaml"), family.theirs(**family.published)
    counts = [sum(p.numel() for p in net.parameters()) for net in (ours, theirs)]
    assert counts == [family.parameters] * 2


@each_family
def test_outputs_are_those_of_diffusers_for_several_batches_images_and_text_lengths(family):
    assert output_error(family) < OUTPUT


@some_families
def test_gradients_of_every_weight_and_input_are_those_of_diffusers(family):
    errors = gradient_errors(family)
    assert len(errors) > 30
    assert max(errors.items(), key=lambda item: item[1])[1] < GRADIENT, max(errors.items(), key=lambda item: item[1])


@some_families
def test_every_block_gives_what_its_counterpart_gives(family):
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family, height=16)
    if not ours.transformer.blocks:  # padding moves their image in the one stream
        arguments.pop("masks", None)
        arguments.pop("references", None)
    end = ours.config.modalities[family.drawn].input
    tokens = arguments["inputs"][family.drawn][0, 0].numel() // math.prod(end.sizes)
    wanted = block_outputs(theirs, tokens, lambda: call_theirs(theirs, family, arguments), family.image_first)
    got = block_outputs(ours, tokens, lambda: ours(**arguments))
    assert len(got) == len(wanted) == len(ours.transformer.blocks) + len(ours.transformer.single_blocks)
    for index, (x, y) in enumerate(zip(got, wanted, strict=True)):
        assert relative(x, y) < OUTPUT, f"block {index} is the first that differs"


@pytest.mark.parametrize("family", slow_but(FAMILIES, BY_NAME["flux.1-dev"]), ids=str)
def test_in_bfloat16_it_is_as_near_to_float64_as_diffusers_is(family):
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family)
    with torch.no_grad():
        exact = ours.double()(**cast(arguments, torch.float64))[family.drawn]
        # whole numbers, which both timestep embeddings hold without rounding
        errors = [
            relative(run(cast(arguments, torch.bfloat16)), exact)
            for run in (
                lambda a: copy.deepcopy(ours).bfloat16()(**a)[family.drawn],
                lambda a: call_theirs(copy.deepcopy(theirs).bfloat16(), family, a),
            )
        ]
    assert errors[0] < min(1.25 * errors[1], 0.08), errors  # Ideogram 4 rounds its rotary frequencies as well


def cast(arguments, dtype):
    """In another dtype, at times and guidances that bfloat16 holds exactly, even times 1000 as in diffusers."""
    late = arguments["timestep"].max() > 1
    unit = 1000 if late else 1
    exact = {"timestep": torch.tensor([0.5, 0.25]) * unit, "second_timestep": torch.tensor([0.25, 0.0]) * unit}
    exact["guidance"] = torch.tensor([4.0, 2.0])
    changed = arguments | {name: x for name, x in exact.items() if name in arguments}
    return tree_map_only(torch.Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, changed)


@pytest.mark.parametrize(
    "family", slow_but([f for f in FAMILIES if "hunyuan" in f.config], BY_NAME["hunyuan-image-2.1"]), ids=str
)
def test_a_refiner_gives_its_valid_tokens_what_diffusers_does_block_by_block(family):
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family)
    mask = arguments["masks"]["text"]
    kept: dict[torch.nn.Module, torch.Tensor] = {}

    def keep(module, given, output):
        kept[module] = (output if isinstance(output, torch.Tensor) else output[0])[mask].detach()

    pairs = [(ours.refiners["text"], theirs.context_embedder)]
    stack, blocks = ours.refiners["text"].transformer.blocks, theirs.context_embedder.token_refiner.refiner_blocks
    pairs += zip(stack, blocks, strict=True)
    for module in (module for pair in pairs for module in pair):
        module.register_forward_hook(keep)
    with torch.no_grad():
        ours(**arguments)
        call_theirs(theirs, family, arguments)
    assert len(kept) == 6
    for x, y in pairs:
        assert relative(kept[x], kept[y]) < OUTPUT


@pytest.mark.parametrize(
    "family",
    slow_but(
        [f for f in ONE_STREAM if f.config not in ("ideogram-4", "cogview4")],
        *(BY_NAME["z-image"], BY_NAME["flux.3-klein-base"]),
    ),
    ids=str,
)
def test_refiners_of_text_and_image_give_what_diffusers_does_block_by_block(family):
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family)
    arguments.pop("masks", None)
    kept: dict[torch.nn.Module, torch.Tensor] = {}

    def keep(module, given, output):
        kept[module] = output if isinstance(output, torch.Tensor) else output[0]

    stacks = [*ours.refiners.values(), *ours.reference_refiners.values()]
    if len(stacks) == 3:
        counterparts = [theirs.txt_mode_blocks, theirs.mode_blocks["image"], theirs.mode_blocks["image_cond"]]
    else:
        counterparts = [theirs.context_refiner, theirs.noise_refiner]
    pairs = [
        pair
        for stack, blocks in zip(stacks, counterparts, strict=True)
        for pair in zip([*stack.transformer.blocks, *stack.transformer.single_blocks], blocks, strict=True)
    ]
    for module in (module for pair in pairs for module in pair):
        module.register_forward_hook(keep)
    with torch.no_grad():
        ours(**arguments)
        call_theirs(theirs, family, arguments)
    assert len(kept) == 4 * len(stacks)
    for x, y in pairs:
        assert relative(kept[x], kept[y]) < OUTPUT


def test_padded_text_is_masked_as_in_qwen_image():
    family = BY_NAME["qwen-image"]
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family)
    mask = torch.arange(7) < torch.tensor([[3], [7]])
    inputs = arguments["inputs"]
    from benchmarks.families.diffusers_networks import pack, unpack

    with torch.no_grad():
        got = ours(**arguments, masks={"text": mask})["image"]
        shapes = [[(1, 6, 4)]] * 2
        wanted = theirs(pack(inputs["image"]), inputs["text"], mask, arguments["timestep"], shapes, return_dict=False)[
            0
        ]
        assert relative(got, unpack(wanted, inputs["image"])) < OUTPUT
        assert relative(got, ours(**arguments)["image"]) > 0.01  # the mask does something


@pytest.mark.parametrize("family", slow_but(FAMILIES, BY_NAME["flux.1-dev"]), ids=str)
def test_eight_euler_steps_end_where_the_scheduler_of_diffusers_ends(family):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family, **CALLS[0])
    inputs, rest = (
        arguments["inputs"],
        {k: v for k, v in arguments.items() if k in ("pooled", "guidance", "references", "class_labels", "masks")},
    )
    # where more channels come in than go out, the others stay as they are
    drawn = family.drawn
    prompt = {name: x for name, x in inputs.items() if name != drawn}
    given, kept = inputs[drawn], ours.config.modalities[drawn].output.channels
    noise, channels = given[:, :kept], given[:, kept:]
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0 if family.config == "sd3-medium" else 3.0)
    scheduler.set_timesteps(8)
    scale = ours.config.timestep.scale
    with torch.no_grad():
        velocity = network_velocity(ours, prompt, channels={drawn: channels}, **rest)
        got = sample(velocity, {drawn: noise}, sigmas=scheduler.sigmas.tolist())[drawn]
        image = noise
        for t, end in pairwise([*scheduler.timesteps, torch.tensor(0.0)]):
            seen = {**prompt, drawn: torch.cat([image, channels], 1)}
            step = dict(inputs=seen, timestep=(t / scale).expand(2), **rest)
            if ours.config.timestep.second is not None:  # the next one, and 0 at last
                step["second_timestep"] = (end / scale).expand(2)
            image = scheduler.step(call_theirs(theirs, family, step), t, image, return_dict=False)[0]
    assert relative(got, image) < 1e-4
    assert relative(got, noise) > 0.1


COMPILED = ("sd3.5-medium", "flux.1-dev", "auraflow", "hunyuan-video-1.5", "lumina-image-2.0", "z-image", "cogview4")


@pytest.mark.slow
@pytest.mark.parametrize("family", [BY_NAME[name] for name in COMPILED], ids=str)
def test_it_compiles_whole_and_gives_the_same(family):
    theirs = random_theirs(family)
    ours = ours_of(theirs, family)
    arguments = random_call(family)
    with torch.no_grad():
        wanted = ours(**arguments)[family.drawn]
        got = torch.compile(ours, fullgraph=True, backend="eager")(**arguments)[family.drawn]
    assert relative(got, wanted) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_the_document_of_the_families_has_the_counts(family):
    text = (REPORTS / "families.md").read_text()
    assert f"| {family.config} | {family.parameters:,} | {family.parameters:,} |" in text
    assert f"| {' | '.join(size(family.config))} |" in text


def test_known_tokens_are_seen_clean_by_the_network_and_drawn_ones_follow_its_velocity():
    family = BY_NAME["sd3-medium"]
    net = ours_of(random_theirs(family), family)
    arguments = random_call(family, **CALLS[0])
    inputs, pooled = arguments["inputs"], arguments["pooled"]
    scale = 1000 / net.config.timestep.scale
    with torch.no_grad():
        got = sample(
            network_velocity(net, pooled=pooled), {"image": inputs["image"]}, steps=2, given={"text": inputs["text"]}
        )["image"]
        image, batch = inputs["image"], len(inputs["image"])
        for t in (1.0, 0.5):
            times = {"text": torch.zeros(batch), "image": torch.full((batch,), t * scale)}
            image = image - 0.5 * net({"text": inputs["text"], "image": image}, times, pooled)["image"]
    assert relative(got, image) < 1e-6
