"""Any number of modalities: the import path that users of the published package know."""

from mmdit.networks.block import MMDiTBlock
from mmdit.networks.transformer import MMDiT

__all__ = ["MMDiT", "MMDiTBlock"]
