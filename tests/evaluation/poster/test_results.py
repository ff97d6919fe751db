"""docs/results and the README say what docs/results/runs.jsonl gives today."""

import re
import shutil
from pathlib import Path

from lotlip.evaluation.poster.ablations import read_ablations
from lotlip.evaluation.poster.write import write_tables

TOP = Path(__file__).parents[3]
RESULTS = TOP / "docs" / "results"


def test_the_pages_are_what_the_runs_give(tmp_path: Path) -> None:
    shutil.copy(RESULTS / "runs.jsonl", tmp_path)
    names = list(read_ablations(TOP / "ablations.yaml").tables)
    write_tables(names, tmp_path, TOP / "ablations.yaml", TOP / "reports")
    for page in [*names, "README"]:
        assert (tmp_path / f"{page}.md").read_text() == (RESULTS / f"{page}.md").read_text(), page


def test_the_readme_has_the_table_and_the_counts_of_the_pages() -> None:
    readme = (TOP / "README.md").read_text()
    table = re.search(r"\| system \|.*?\| \*chance\*[^\n]*\n", (RESULTS / "main_results.md").read_text(), re.DOTALL)
    assert table
    assert table[0] in readme
    counts = re.search(r"\d+ reproduced, \d+ not reproduced, \d+ undecided", (RESULTS / "README.md").read_text())
    assert counts
    assert counts[0] in readme.replace("\n", " ")
