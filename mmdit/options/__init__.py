"""What a model is, as plain data: one frozen dataclass a part, which constructors, YAML, JSON Schema and docs read."""

from mmdit.options.fields import OptionError, Options, as_data, option
from mmdit.options.modalities import (
    FeedForwardInput,
    LinearInput,
    LinearOutput,
    MlpInput,
    ModalityOptions,
    ModalityRotary,
    PadOptions,
    PatchInput,
    PatchOutput,
    RefinerOptions,
    TokenInput,
)
from mmdit.options.network import BlockOptions, JointAttentionOptions, ModelOptions
from mmdit.options.norm import NormOptions
from mmdit.options.parts import (
    AttentionOptions,
    ClassLabelOptions,
    FeedForwardOptions,
    GuidanceOptions,
    ModulationOptions,
    NetworkAttentionOptions,
    PooledOptions,
    ResidualOptions,
    RotaryOptions,
    SingleStreamOptions,
    TimestepOptions,
)

__all__ = [
    "AttentionOptions",
    "BlockOptions",
    "ClassLabelOptions",
    "FeedForwardInput",
    "FeedForwardOptions",
    "GuidanceOptions",
    "JointAttentionOptions",
    "LinearInput",
    "LinearOutput",
    "MlpInput",
    "ModalityOptions",
    "ModalityRotary",
    "ModelOptions",
    "ModulationOptions",
    "NetworkAttentionOptions",
    "NormOptions",
    "OptionError",
    "Options",
    "PadOptions",
    "PatchInput",
    "PatchOutput",
    "PooledOptions",
    "RefinerOptions",
    "ResidualOptions",
    "RotaryOptions",
    "SingleStreamOptions",
    "TimestepOptions",
    "TokenInput",
    "as_data",
    "option",
]
