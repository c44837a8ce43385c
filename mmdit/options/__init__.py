"""What a model is, as plain data: one frozen dataclass a part, which constructors, YAML, JSON Schema and docs read."""

from mmdit.options.fields import OptionError, Options, as_data, as_written, option
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
    NumberOptions,
    PooledOptions,
    ResidualOptions,
    RotaryOptions,
    SingleStreamOptions,
    TimestepOptions,
)
from mmdit.options.routing import RoutingOptions

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
    "NumberOptions",
    "OptionError",
    "Options",
    "PadOptions",
    "PatchInput",
    "PatchOutput",
    "PooledOptions",
    "RefinerOptions",
    "ResidualOptions",
    "RotaryOptions",
    "RoutingOptions",
    "SingleStreamOptions",
    "TimestepOptions",
    "TokenInput",
    "as_data",
    "as_written",
    "option",
]
