"""The one exception for bad input: the command line prints it as a single line and exits with code 2."""


class InputError(ValueError):
    """What a user gave is wrong; the message names the file, line or field, what was wrong and what would be right."""
