"""The two ways a command can end badly; both become one line on stderr."""


class InputError(Exception):
    """What the user gave cannot be used. Names the file or option, what is wrong, and the remedy. Exit code 2."""


class CheckError(Exception):
    """The work ran, and a check of its result failed. Exit code 1."""


class NothingToFold(CheckError):
    """No activation could go, or no layers merge without it: a sound result, but not the one that was asked for."""
