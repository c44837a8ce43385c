"""Configs: YAML with the place of every key, checked by the fields of `mmdit.options`; and the model of one."""

from mmdit.config.construct import as_config, build
from mmdit.config.sections import Config
from mmdit.config.yaml_document import ConfigError

__all__ = ["Config", "ConfigError", "as_config", "build"]
