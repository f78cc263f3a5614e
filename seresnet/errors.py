"""The errors that a user can fix. Each message is one line, and says what to do."""


class SeresnetError(Exception):
    """A problem that the user can fix: the command line prints the message without a traceback and exits with 2."""

    exit_code = 2


class ImageError(SeresnetError):
    """An image that cannot be read. The message is the reason, without the path."""


class WeightsError(SeresnetError):
    """Weights that are missing, damaged, dangerous, or made for another network."""


class DataError(SeresnetError):
    """A data set with an unexpected layout or content."""


class ConfigError(SeresnetError):
    """A setting that is unknown or out of range."""


class ArgumentError(ConfigError, TypeError):
    """An argument that a function does not have; a TypeError as well, as Python's own."""


class DiskFullError(SeresnetError, OSError):
    """No space left on the device that is written to."""
