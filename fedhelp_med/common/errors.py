"""The errors that a person reads."""


class FedHelpError(Exception):
    """The work failed (exit status 1). The message is one readable line."""

    exit_status = 1


class InputError(FedHelpError):
    """The input is wrong (exit status 2). The message names the thing, its value and the remedy."""

    exit_status = 2


def own_error(error: BaseException) -> FedHelpError | None:
    """Return this package's error that a library wrapped into one of its own, or the error itself; None: neither."""
    return next((found for found in _chain(error) if isinstance(found, FedHelpError)), None)


def reason_of(error: BaseException) -> str:
    """Return what a person is told of an error.

    Of a wrapped error that is not this package's the innermost is told, in one line: a library's words about its own
    machinery rarely name the cause.
    """
    if (own := own_error(error)) is not None:
        return str(own)
    innermost = _chain(error)[-1]
    return f"{type(innermost).__name__}: {first_line(innermost)}"


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while (inner := chain[-1].__cause__) is not None and inner not in chain:
        chain.append(inner)
    return chain


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name where it has none."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__
