"""The long rehearsal: the whole graph on all 600 real pictures over HTTP. `make rehearsal`, some minutes.

It runs in .work/rehearsal (removed first), so that the project's own state stays as it is, and prints what became
of the pictures and how the models did on the held-out ones.
"""

import json
import shutil
import sys
import time

from tests.pipeline.pictures import PICTURES, configure, read_pairs, serve
from tests.pipeline.workspace import TOP, Workspace


def main() -> None:
    if not PICTURES.is_dir():
        sys.exit(f"{PICTURES} is missing: the rehearsal needs the pictures beside the project.")
    folder = TOP / ".work" / "rehearsal"
    shutil.rmtree(folder, ignore_errors=True)
    workspace = Workspace(folder)
    rows = [f"{caption}\t{path}".encode() for caption, path in read_pairs()]
    started = time.monotonic()
    with serve(PICTURES) as address:
        configure(workspace, address, rows, "train.batch_size=64")
        print(workspace.succeed("dvc", "repro"))
    for name in ("download/mine.json", "recaption/llava.json", "validate/summary.json"):
        print(name, json.dumps(json.loads((folder / "reports" / name).read_text()), indent=2))
    print((folder / "reports/report/comparison.md").read_text())
    print(f"{len(rows)} pictures in {time.monotonic() - started:.0f} s; the report is in {folder}/reports/report")


if __name__ == "__main__":
    main()
