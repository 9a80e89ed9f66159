"""The errors that a user meets: each message is one sentence with what, where and what to do."""


class ResNetHubError(Exception):
    """Base of every error that this package raises on purpose; safe to show to a user as it is."""


class ConfigError(ResNetHubError):
    """A configuration that describes no network, or a `config.json` that cannot be read."""


class CheckpointError(ResNetHubError):
    """A checkpoint folder or repo that is incomplete, or whose parts disagree."""


class HubError(ResNetHubError):
    """The Hugging Face Hub refused, or could not be reached."""


class ImageError(ResNetHubError):
    """Bytes that are no image we accept, or too large to open."""


class DataError(ResNetHubError):
    """A data set that cannot be trained or evaluated on."""


class TrainingError(ResNetHubError):
    """A training run that cannot start or go on; what it had reached is kept."""
