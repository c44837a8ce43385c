"""What was published of networks at scale, and the two toys that should tell the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mmdit_cli.request.tool_config import ToolConfig, load_tool_config


@dataclass(frozen=True)
class Finding:
    """That one design is better than another, or worse, or no worse for what it saves.

    Attributes:
        says: what the source found, with its size.
        expected: of `claimed` against `plain`.
        both, plain, claimed: what is set, as by `--set`; `{depth}` is the size's, `{rest}` one less.
    """

    name: str
    source: str
    says: str
    expected: Literal["better", "worse", "same"]
    plain: Sequence[str] = ()
    claimed: Sequence[str] = ()
    both: Sequence[str] = ()

    def designs(self, size: str, more: Sequence[str] = ()) -> tuple[ToolConfig, ToolConfig]:
        """The plain one and the claimed one, at a size that a config has, named for what is set: designs of several
        findings that are one have one name."""
        unchanged = load_tool_config(size, more)

        def design(own: Sequence[str]) -> ToolConfig:
            depth = unchanged.model.depth
            values = [each.format(depth=depth, rest=depth - 1) for each in (*self.both, *own)]
            config = load_tool_config(size, [*more, *values])
            return replace(config, name="unchanged" if config == unchanged else ", ".join(values))

        return design(self.plain), design(self.claimed)


ESSER = "Esser et al. 2024, arXiv 2403.03206"
FINDINGS = (
    Finding(
        "timesteps drawn from a logit-normal density, not uniformly",
        f"{ESSER}, table 1",
        "better: mean rank 1.54 of 61 formulations, uniform 5.67",
        "better",
        plain=["train.timesteps.kind=uniform"],
        claimed=["train.timesteps.kind=logit_normal"],
    ),
    Finding(
        "the loss is the velocity's, not the noise's",
        f"{ESSER}, table 1",
        "better: mean rank 1.54 with logit-normal timesteps; noise, on a schedule of its own, 2.88 (here only the "
        "loss differs)",
        "better",
        plain=["train.prediction.loss=noise"],
    ),
    Finding(
        "each modality has its own weights",
        f"{ESSER}, section 5.2.3, figure 4",
        "better: validation loss and FID of MM-DiT below those of DiT, which shares them and is smaller",
        "better",
        plain=[
            "model.variant=generalized",  # may have single-stream blocks, and is the same network without
            "model.depth=0",
            "model.single_stream.depth={depth}",
            "model.single_stream.kind=sequential",
        ],
    ),
    Finding(
        "every block, and not the first alone, has weights for each modality",
        f"{ESSER}, section 5.2.3, figure 4",
        "as in the row before; networks whose later blocks share their weights came after it (FLUX)",
        "better",
        plain=[
            "model.variant=generalized",
            "model.depth=1",
            "model.single_stream.depth={rest}",
            "model.single_stream.kind=sequential",
        ],
    ),
    Finding(
        "words are updated with the picture, by one joint attention",
        f"{ESSER}, section 5.2.3, figure 4",
        "better: validation loss and FID of MM-DiT below those of CrossDiT, whose picture attends to a text that stays "
        "(here such a text's keys and values are in the picture's own softmax, and two blocks read it first, in both "
        "designs, for the encoders there)",
        "better",
        both=[
            "model.variant=generalized",
            "model.modalities.text.refiner.depth=2",
            "model.modalities.text.refiner.conditioning=none",
        ],
        plain=["model.modalities.text.static=true"],
    ),
    Finding(
        "more blocks",
        f"{ESSER}, section 5.3, figure 8",
        "better: validation loss falls smoothly from depth 15 to 38, where the width grows as well",
        "better",
        plain=["model.depth=1"],
    ),
    Finding(
        "queries and keys normalized, at ten times the learning rate",
        f"{ESSER}, section 5.3.2; Dehghani et al. 2023, arXiv 2302.05442",
        "better: without it attention's logits grow until training diverges",
        "better",
        both=["train.learning_rate=0.05"],
        plain=["model.qk_rmsnorm=false"],
        claimed=["model.qk_rmsnorm=true"],
    ),
    Finding(
        "four residual streams with hyper-connections",
        "Zhu et al. 2024, arXiv 2409.19606, figure 1",
        "better: a mixture of experts of 7B gets there 1.8 times as fast",
        "better",
        claimed=["model.residual.kind=hyper_connections", "model.residual.streams=4"],
    ),
    Finding(
        "four register tokens beside the picture's",
        "Darcet et al. 2023, arXiv 2309.16588, table 2",
        "the same where a whole picture is judged: ImageNet 84.3 % to 84.8 %",
        "same",
        claimed=["model.register_tokens.image=4"],
    ),
    Finding(
        "a sigmoid gate on what attention gives",
        "Qiu et al. 2025, arXiv 2505.06708, table 1",
        "better: perplexity of a 15B mixture of experts 6.03 to 5.76",
        "better",
        claimed=["model.attention.out_gate=true"],
    ),
    Finding(
        "one modulation with a table for each block, not a projection for each",
        "Chen et al. 2023, arXiv 2310.00426 (PixArt-alpha), figure 5",
        "nearly the same, of 833 M parameters 611 M",
        "same",
        claimed=["model.modulation.table=true"],
    ),
    Finding(
        "the network predicts the data, not the velocity",
        "Li & He 2025, arXiv 2511.13720 (JiT), table 2",
        "far better where a patch has as many numbers as the network is wide (768), about the same at 48 in 768 (here "
        "48 in 48, and in 64 at ladder/2)",
        "better",
        plain=["train.prediction.output=velocity"],
    ),
    Finding(
        "keys and values of their own for each head",
        "Ainslie et al. 2023, arXiv 2305.13245, table 1",
        "better: 47.2 in the mean of tasks, with one head of keys and values 46.6",
        "better",
        plain=["model.attention.kv_heads=1"],
    ),
    Finding(
        "Muon for the matrices within the blocks, not AdamW",
        "Liu et al. 2025, arXiv 2502.16982, section 3.2",
        "better: as good with about 52 % of the FLOPs",
        "better",
        claimed=["train.optimizer.kind=muon"],
    ),
    Finding(
        "early tokens aligned with later ones",
        "Haghighi et al. 2025, arXiv 2510.12581 (LayerSync), abstract",
        "better: training of flow transformers on ImageNet 8.75 times as fast (there block 8 with 16 of 28; here the "
        "first with the second)",
        "better",
        claimed=["train.alignment.early=0", "train.alignment.late=1"],
    ),
    Finding(
        "half of the picture's tokens pass by the middle blocks in training",
        "Photoroom 2026, Training Design for Text-to-Image Models (PRX, part 2), of TREAD (arXiv 2501.04765)",
        "worse of pictures of 256 pixels, better of 1024, which have 16 times the tokens (here 16 tokens; the authors "
        "of TREAD find it better at 256 pixels, and this row asked for that until its first runs were in)",
        "worse",
        claimed=["model.routing.start=1", "model.routing.end={rest}", "model.routing.modalities=[image]"],
    ),
    Finding(
        "SwiGLU in the feedforwards, at as many weights",
        "Shazeer 2020, arXiv 2002.05202, table 1",
        "better: log perplexity 1.679 (GELU) to 1.636",
        "better",
        claimed=["model.feedforward.kind=swiglu", "model.feedforward.mult=2.6667"],
    ),
)
