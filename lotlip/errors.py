"""Errors meant for the user: the message alone says what arrived, what was expected and what to do next.

Stages and the command line print such a message without a traceback and exit with status 1.
Invariants of our own code use `assert` instead.
"""


class LotlipError(Exception):
    """Base of every error that a user can cause and mend."""


class ParamsError(LotlipError):
    """A setting is unknown, misspelt, of the wrong type, or contradicts another."""


class DataError(LotlipError):
    """An input or a stage's output is missing, unreadable, or not what its manifest says."""


class StorageError(LotlipError):
    """A place in S3 cannot be used: its server refuses or is away."""


class ObjectError(StorageError):
    """An object in S3 is missing or damaged."""


class CeilingError(LotlipError):
    """More data was lost or rejected than the ceiling in params.yaml allows."""


class ModelError(LotlipError):
    """A checkpoint is missing, of the wrong class, or does not fit its settings."""


class ExecutorError(LotlipError):
    """Workers cannot be started, or died more often than allowed."""


class ShapeError(LotlipError, ValueError):
    """Tensors whose shapes do not fit each other."""
