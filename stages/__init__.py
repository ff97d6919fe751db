"""One thin script a DVC stage: read params, call `lotlip`, write outputs and a JSON report."""

import sys
from collections.abc import Callable
from typing import Any

from lotlip.errors import LotlipError, ParamsError


def run(main: Callable[..., None]) -> None:
    """Call `main` with the command line's arguments; a user's error becomes one message and exit status 1."""
    try:
        main(*sys.argv[1:])
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def entry(section: dict[str, Any], what: str, name: str) -> Any:
    """The entry `name` of a params section.

    Raises:
        ParamsError: there is none; the message lists those there are.
    """
    if name not in section:
        raise ParamsError(f"params.yaml has no {what} {name!r}; it has {', '.join(section)}.")
    return section[name]
