"""The exception for mistakes of the user."""


class UserError(ValueError):
    """Error caused by an input of the user; the message says what to do.

    It is a ``ValueError``, so that callers can catch it as usual. The commands print
    only its message, without a traceback.
    """
