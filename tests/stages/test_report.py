"""Stage `report` on made-up reports of the other stages."""

import shutil
from pathlib import Path

import pytest

from lotlip.errors import DataError
from stages import report
from tests.evaluation.made_up_reports import write_reports

TOP = Path(__file__).parents[2]


def test_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(TOP / "params.yaml", tmp_path)
    write_reports(tmp_path / "reports")
    monkeypatch.chdir(tmp_path)
    report.main()
    assert "LoTLIP on the embedded sample" in (tmp_path / "reports" / "report" / "index.html").read_text()
    shown = capsys.readouterr().out
    assert "66.0" in shown
    assert "reports/report/index.html" in shown

    (tmp_path / "reports" / "evaluate" / "lit_long.json").unlink()
    with pytest.raises(DataError, match="dvc repro evaluate@lit_long"):
        report.main()
