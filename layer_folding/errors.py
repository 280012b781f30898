"""The two ways a command can end badly; both become one line on stderr."""


class InputError(Exception):
    """What the user gave cannot be used. Names the file or option, what is wrong, and the remedy. Exit code 2."""


class CheckError(Exception):
    """The work ran, and a check of its result failed. Exit code 1."""


class NothingToFold(CheckError):
    """No activation could be removed, or no layers merge after the removal: a sound result, but nothing is folded."""
