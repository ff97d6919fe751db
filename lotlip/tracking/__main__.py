"""`python -m lotlip.tracking follow` (started by the training stage) and `prepare` (makes mlflow.db)."""

import signal
import sys
from pathlib import Path

from lotlip.tracking.follower import follow
from lotlip.tracking.store import ensure_database


def main(command: str) -> int:
    """Run one of the two commands."""
    if command == "prepare":
        ensure_database(Path())
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return follow(sys.stdin.buffer)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
