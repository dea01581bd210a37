"""The one exception that carries a message meant for the user."""


class UserError(ValueError):
    """Something the user gave is wrong; the message says what to do.

    A ``ValueError``, so that library users can catch it as usual. The tools
    print the message alone, without a stack of frames.
    """
