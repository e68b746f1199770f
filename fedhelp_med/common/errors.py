"""The errors that a person reads."""


class FedHelpError(Exception):
    """The work failed (exit status 1). The message is one readable line."""

    exit_status = 1


class InputError(FedHelpError):
    """The input is wrong (exit status 2). The message names the thing, its value and the remedy."""

    exit_status = 2


def reason_of(error: BaseException) -> str:
    """Return what a person is told of an error, in one line.

    A message of this package that a library wrapped into an error of its own is told as it was; of any other wrapped
    error the innermost, for a library's words about its own machinery rarely name the cause.
    """
    chain = [error]
    while (inner := chain[-1].__cause__) is not None and inner not in chain:
        chain.append(inner)
    for found in chain:
        if isinstance(found, FedHelpError):
            return str(found)
    return f"{type(chain[-1]).__name__}: {first_line(chain[-1])}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name where it has none."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__
