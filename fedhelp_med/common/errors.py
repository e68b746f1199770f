"""The errors that a person reads."""


class FedHelpError(Exception):
    """The work failed (exit status 1). The message is one readable line."""

    exit_status = 1


class InputError(FedHelpError):
    """The input is wrong (exit status 2). The message names the thing, its value and the remedy."""

    exit_status = 2


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name where it has none."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__
