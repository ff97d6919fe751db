"""Compare all methods: reports of all stages -> reports/report (DVC stage `report`)."""

from pathlib import Path

from lotlip.evaluation.report_page import write_report
from lotlip.evaluation.results import read_results
from lotlip.evaluation.tables import print_comparison
from lotlip.params import load_params
from stages import run


def main() -> None:
    """Write the report on everything that params.yaml names."""
    folder = Path("reports/report")
    write_report(read_results(load_params(), Path("reports")), folder)
    print_comparison(folder / "comparison.csv")
    print(f"Report: {folder / 'index.html'}")


if __name__ == "__main__":
    run(main)
