"""Validation on Prefect's pages: what passed, what failed, also of a stage that its own ceiling failed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.flows.test_pipeline import artifact, run
from tests.tracking.made_up_project import VALIDATION

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]

VALIDATE = """
import os, pathlib, sys
path = pathlib.Path("reports/validate/summary.json")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(pathlib.Path("found.json").read_text())
sys.exit("validation failed" if os.path.exists("ceiling") else 0)
"""


@pytest.fixture
def validating(project: Path) -> Path:
    """The project with a stage `validate` that finds what found.json says, and fails where a file `ceiling` lies."""
    graph = yaml.safe_load((project / "dvc.yaml").read_text())
    report = {"reports/validate/summary.json": {"cache": False}}
    command = f"{sys.executable} validate.py"
    graph["stages"] = {"validate": {"cmd": command, "deps": ["found.json", "validate.py"], "metrics": [report]}}
    (project / "dvc.yaml").write_text(yaml.safe_dump(graph))
    (project / "validate.py").write_text(VALIDATE)
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("retries: 1", "retries: 0"))
    return project


def find(project: Path, **changes: Any) -> None:
    (project / "found.json").write_text(json.dumps({**VALIDATION, **changes}))


def test_what_validation_found_is_a_page(validating: Path) -> None:
    find(validating, failed=[], expectations={"evaluated": 30, "passed": 30, "failed": 0})
    assert run().is_completed()
    page = artifact("validation").data
    assert "**30 of 30 expectations passed.**" in page
    for line in (
        "| requested | 2,000 |",
        "| with a good long text | 1,974 |",
        "| rejected: shown by evaluation set long | 3 |",
        "| long_tokens_llava | 0.250 |",
        "| long_tokens_mine | not in the baseline |",
    ):
        assert line in page
    assert '"images/leaks/long"' in artifact("metrics-validate").data
    (validating / "found.json").touch()
    assert run().message == "1 stages: 1 unchanged"


def test_a_failed_validation_says_why(validating: Path) -> None:
    find(validating, drift=None)
    (validating / "ceiling").touch()
    assert run().is_failed()
    page = artifact("validation").data
    assert "**29 of 30 expectations passed.**" in page
    assert "- drift: largest drift from the baseline is 0.25, at most 0.2 is allowed (`validate.max_drift`)" in page
    assert "0 to 1" not in page


def test_an_old_report_says_nothing_about_a_stage_that_did_not_get_so_far(validating: Path) -> None:
    find(validating, expectations={"evaluated": 77, "passed": 77, "failed": 0})
    assert run().is_completed()
    (validating / "validate.py").write_text("import sys; sys.exit('no memory left')")
    find(validating, expectations={"evaluated": 88, "passed": 88, "failed": 0})
    assert run().is_failed()
    assert "77 of 77" in artifact("validation").data
