"""The error classes for what a user can repair."""


class MedpairError(ValueError):
    """A wrong input, named in one line: file or key, value seen, value wanted, repair."""


class IncompleteError(MedpairError):
    """All was done but for some items, which the message names; the command ends with code 1."""
