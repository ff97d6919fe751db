"""One thin script a DVC stage: read params, call `lotlip`, write outputs and a JSON report."""

import os
import sys
from collections.abc import Callable

from lotlip.errors import LotlipError

# Before torch starts its threads: waiting threads sleep instead of spinning. On a quiet machine that costs tiny
# models a seventh of their speed; on a busy one spinning threads take the cores from each other, ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run(main: Callable[..., None]) -> None:
    """Call `main` with the command line's arguments; a user's error becomes one message and exit status 1."""
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print("interrupted: what is finished is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
