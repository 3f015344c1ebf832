"""The one exception that the command line shows without a traceback."""


class UserError(ValueError):
    """Something the user can put right: the message says what was expected, what came, and what to do.

    The command line prints the message alone and exits with status 2; every other
    exception is a defect of ours and keeps its traceback.
    """
