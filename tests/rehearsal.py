"""The long rehearsal: the whole graph on all 600 real pictures over a faulty HTTP server. `make rehearsal`.

With `--s3` the table lies in a real S3 server, and shards and sidecars go there. It runs in .work/rehearsal (removed
first), so that the project's own state stays as it is, and prints what became of the pictures, beside what the server's
faults must have made of them, and how the models did on the held-out ones.
"""

import json
import os
import shutil
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from tests.pipeline.pictures import PICTURES, FaultyHandler, configure, fault_of, read_pairs, serve
from tests.pipeline.workspace import TOP, Workspace
from tests.s3_server import BUCKET, running_s3


def main() -> None:
    if not PICTURES.is_dir():
        sys.exit(f"{PICTURES} is missing: the rehearsal needs the pictures beside the project.")
    folder = TOP / ".work" / "rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    workspace = Workspace(folder / "project")
    rows = [f"{caption}\t{path}".encode() for caption, path in read_pairs()]
    changes = ["train.batch_size=64", "download.num_retries=1"]
    started = time.monotonic()
    with ExitStack() as stack:
        if "--s3" in sys.argv[1:]:
            server = stack.enter_context(running_s3(folder / "s3"))
            os.environ.update(server.environment)
            table = server.put("sources/pictures.tsv", b"\n".join(rows) + b"\n")
            changes += [f"sources.mine.path={table}", f"storage.root=s3://{BUCKET}/store"]
        address = stack.enter_context(serve(PICTURES, FaultyHandler))
        configure(workspace, address, rows, *changes)
        print(workspace.succeed("dvc", "repro"))
        if "--s3" in sys.argv[1:]:
            print(f"{len(server.list_keys('store/objects'))} objects in S3")
    reports = folder / "project/reports"
    for name in ("recaption/llava.json", "validate/summary.json"):
        print(name, json.dumps(json.loads((reports / name).read_text()), indent=2))
    check_counts(json.loads((reports / "download/mine.json").read_text()))
    print((reports / "report/comparison.md").read_text())
    print(f"{len(rows)} pictures in {time.monotonic() - started:.0f} s; the report is in {reports}/report")


def check_counts(found: dict[str, Any]) -> None:
    """Print what the download counted beside what the injected faults must give, and stop where they differ."""
    outcomes = Counter(fault_of(path)[1] for _, path in read_pairs())
    expected = {"success": outcomes.pop(None), **outcomes}
    counted = {"success": found["success"], **found["errors"]}
    print(f"injected faults: {expected}\ncounted:         {counted}\nof {found['requested']} rows")
    if counted != expected or found["requested"] != sum(expected.values()):
        sys.exit("the counts do not add up")


if __name__ == "__main__":
    main()
