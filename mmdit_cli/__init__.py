"""The `mmdit` command: profile, check, count, train and export multimodal diffusion transformers."""

__version__ = "0.1.0"
