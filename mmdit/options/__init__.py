"""What a model is, as plain data: one frozen dataclass a part, which constructors, YAML, JSON Schema and docs read."""

from mmdit.options.fields import OptionError, Options, as_data, option
from mmdit.options.model import BlockOptions, JointAttentionOptions, ModelOptions
from mmdit.options.parts import (
    AttentionOptions,
    FeedForwardOptions,
    GuidanceOptions,
    LinearInput,
    LinearOutput,
    ModalityOptions,
    ModalityRotary,
    ModulationOptions,
    PatchInput,
    PatchOutput,
    PooledOptions,
    ResidualOptions,
    RotaryOptions,
    SingleStreamOptions,
    TimestepOptions,
    TokenInput,
)

__all__ = [
    "AttentionOptions",
    "BlockOptions",
    "FeedForwardOptions",
    "GuidanceOptions",
    "JointAttentionOptions",
    "LinearInput",
    "LinearOutput",
    "ModalityOptions",
    "ModalityRotary",
    "ModelOptions",
    "ModulationOptions",
    "OptionError",
    "Options",
    "PatchInput",
    "PatchOutput",
    "PooledOptions",
    "ResidualOptions",
    "RotaryOptions",
    "SingleStreamOptions",
    "TimestepOptions",
    "TokenInput",
    "as_data",
    "option",
]
