"""The errors that a user can mend. Each message is one line, and says what to do."""


class SeresnetError(Exception):
    """Something that the user can mend: the command line prints the message alone and exits with 2."""

    exit_code = 2


class ImageError(SeresnetError):
    """An image that cannot be read. The message is the reason, without the path."""


class WeightsError(SeresnetError):
    """Weights that are missing, damaged, dangerous, or made for another network."""


class DataError(SeresnetError):
    """A data set that is not laid out as it has to be."""


class ConfigError(SeresnetError):
    """A setting that is unknown, or out of its range."""


class ArgumentError(ConfigError, TypeError):
    """An argument that a function does not have; a TypeError as well, as Python's own."""


class DiskFullError(SeresnetError, OSError):
    """No space left where something is written."""
