"""Serve the pipeline on the cron schedule of params.yaml, until Ctrl-C (`python -m flows.deployments`)."""

import os
import signal
import sys
from pathlib import Path

from prefect.schedules import Cron
from prefect.settings import get_current_settings

from flows.pipeline import pipeline
from lotlip.errors import LotlipError
from lotlip.params import load_params


def main() -> int:
    """Say what is served and where, then serve it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    try:
        settings = load_params().pipeline
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    where = os.environ.get("PREFECT_API_URL") or str(get_current_settings().api.url or "")
    if not where:
        print("error: no Prefect server: start one with `make ui`, or set PREFECT_API_URL.", file=sys.stderr)
        return 1
    name = Path.cwd().name
    print(f"serving pipeline/{name} at {settings.cron!r} ({settings.timezone}) on {where}", flush=True)
    pipeline.serve(
        name=name,
        schedule=Cron(settings.cron, timezone=settings.timezone),
        description="Brings the DVC pipeline of this folder up to date.",
        limit=1,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
