"""One thin script a DVC stage: read params, call `lotlip`, write outputs and a JSON report."""

import sys
from collections.abc import Callable

from lotlip.errors import LotlipError


def run(main: Callable[..., None]) -> None:
    """Call `main` with the command line's arguments; a user's error becomes one message and exit status 1."""
    try:
        main(*sys.argv[1:])
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
