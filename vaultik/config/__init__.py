"""The configuration file: YAML in, a checked `Config` out, or one line that names the key and the line."""

from vaultik.config.check import Config, load_config
from vaultik.config.document import S3, iter_keys
from vaultik.config.quantities import parse_duration, parse_size

__all__ = ["S3", "Config", "iter_keys", "load_config", "parse_duration", "parse_size"]
