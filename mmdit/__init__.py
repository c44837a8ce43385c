"""Multimodal diffusion transformers: the MMDiT block of Esser et al. 2024 for any number of modalities."""

from mmdit.config import ConfigError, build
from mmdit.layouts import pretrained
from mmdit.layouts.loading import load
from mmdit.mmdit_pytorch import JointAttention, MMDiT, MMDiTBlock
from mmdit.networks.model import MMDiTModel
from mmdit.weights.saved_model import save

__all__ = ["ConfigError", "JointAttention", "MMDiT", "MMDiTBlock", "MMDiTModel", "build", "load", "save"]

MMDiTModel.hub = pretrained  # networks know no files; what reads and writes them stands above
