"""Multimodal diffusion transformers: the MMDiT block of Esser et al. 2024 for any number of modalities."""

from mmdit.config import ConfigError, build
from mmdit.mmdit_pytorch import JointAttention, MMDiT, MMDiTBlock
from mmdit.networks.model import MMDiTModel
from mmdit.weights.saved_model import load, save

__all__ = ["ConfigError", "JointAttention", "MMDiT", "MMDiTBlock", "MMDiTModel", "build", "load", "save"]
