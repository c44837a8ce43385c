"""Blocks over one modality alone, before the joint ones."""

from __future__ import annotations

from torch import Tensor, nn

from mmdit.layers.arguments import as_vector
from mmdit.layers.masks import Masks
from mmdit.networks.embeddings import VectorEmbed, make_timestep_embed, mean_of
from mmdit.networks.ragged import Given
from mmdit.networks.transformer import MMDiT
from mmdit.options import ModelOptions


class Refiner(nn.Module):
    """The blocks that refine a modality's tokens, which are those of the network with one modality in them.

    They are modulated by the network's conditioning, by none, or by one of their own: the timestep's embedding plus an
    MLP of the mean of what came in (HunyuanVideo's "token refiner"). They run padded, whether or not the network packs.
    """

    def __init__(self, network: ModelOptions, name: str) -> None:
        super().__init__()
        options, end = network.refiner(name), network.modalities[name].input
        own = network.modalities[name].refiner.conditioning == "own"  # type: ignore[union-attr]
        self.conditioned = options.dim_cond is not None
        self.time_embed = make_timestep_embed(network.timestep, options.dim_cond) if own else None
        self.mean_embed = VectorEmbed(end.dim, options.dim_cond) if own else None  # type: ignore[union-attr,arg-type]
        self.transformer = MMDiT(options)

    def forward(
        self,
        x: Tensor,
        given: Given,
        mask: Tensor | None,
        timestep: Tensor | float | None,
        cond: Tensor | None,
        places: Tensor | None = None,
        given_mask: Tensor | None = None,
    ) -> Tensor:
        """`x`: b n d, of what is `given`; `mask`: b n, True = valid, False where `x` is filled already; `timestep`: b;
        `cond`: b dim_cond or b n dim_cond; `places`: n a or b n a, the coordinates of what turns;
        `given_mask`: that of what is given, which has no pad tokens -> b n d.

        Raises:
            ValueError: the conditioning is its own, and the timestep is not one for each sample.
        """
        if self.time_embed is not None and self.mean_embed is not None:
            t = as_vector(timestep, f"timestep of {self.transformer.modality_names[0]}", x.shape[0], x.device)
            cond = self.time_embed(t, x.dtype) + self.mean_embed(mean_of(given, given_mask).to(x.dtype))
        (refined,) = self.transformer(
            modality_tokens=[x],
            modality_masks=Masks((mask,), filled=True),
            time_cond=cond if self.conditioned else None,
            modality_positions=None if places is None else [places],
        )
        return refined
