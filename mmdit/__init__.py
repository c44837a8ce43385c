"""Multimodal diffusion transformers: the MMDiT block of Esser et al. 2024 for any number of modalities."""

from mmdit.checkpoint import load, save
from mmdit.config import ConfigError, build
from mmdit.mmdit_pytorch import JointAttention, MMDiT, MMDiTBlock
from mmdit.model import MMDiTModel

__all__ = ["ConfigError", "JointAttention", "MMDiT", "MMDiTBlock", "MMDiTModel", "build", "load", "save"]
