"""The error of this room."""

from lotlip.errors import LotlipError


class TrackingError(LotlipError):
    """The tracking store does not answer, or holds something this version cannot read."""
