"""The one error class for mistakes a user can repair."""


class MedpairError(ValueError):
    """A wrong input, named in one line: file or key, value seen, value wanted, repair."""
