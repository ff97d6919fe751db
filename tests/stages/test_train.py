"""Stage `train@<method>` on rendered scenes, with sidecars written by hand."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lotlip.data.loading.samples import is_held_out
from lotlip.data.manifest import Manifest, Shard, describe_file, read_manifest, write_manifest
from lotlip.data.tables import read_records
from lotlip.errors import DataError, ParamsError
from lotlip.model.modeling import LotlipModel
from lotlip.model.processor import LotlipProcessor
from stages import download, train
from tests.training.tiny_training import make_towers

TOP = Path(__file__).parents[2]


def write_sidecars(images: Manifest, folder: Path, kind: str, rows_of: dict[str, list[dict]]) -> None:
    folder.mkdir(parents=True)
    shards = []
    for shard in images.shards:
        rows = rows_of[shard.name]
        columns = list(rows[0]) if rows else ["key", "subject", "reason"]
        schema = None if rows else pa.schema([(name, pa.string()) for name in columns])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{shard.name}.parquet")
        files = {"table": describe_file(folder, f"{shard.name}.parquet")}
        shards.append(Shard(shard.name, len(rows), files, shard.files["tar"].sha256))
    write_manifest(folder, kind, shards)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 scenes in two shards, some held out; one text failed, one image rejected."""
    monkeypatch.chdir(tmp_path)
    make_towers(tmp_path)
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    params["sources"]["scenes"].update(num_images=40, held_out_share=0.2)
    params["download"]["shard_size"] = 25
    params["captioners"] = {"llava": params["captioners"]["llava"]}
    params["train"].update(
        epochs=2, batch_size=10, image_tower="vit", tokenizer="tokenizer", embed_dim=16, text_width=16
    )
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    download.main("scenes")
    images = read_manifest(Path("data/images/scenes"), "images")
    keys = {
        shard.name: [row["key"] for row in read_records(images.path(shard, "table"), ["key"])]
        for shard in images.shards
    }
    trained = [key for of_shard in keys.values() for key in of_shard if not is_held_out(key, 0.2)]
    texts = {
        name: [
            {
                "key": key,
                "kind": "long",
                "text": None if key == trained[0] else "ba be bi. bo bu.",
                "failure": "empty" if key == trained[0] else None,
            }
            for key in of_shard
        ]
        for name, of_shard in keys.items()
    }
    write_sidecars(images, Path("data/captions/llava"), "captions", texts)
    small = [{"key": trained[1], "subject": "image", "reason": "too small"}]
    rejected = {name: small if trained[1] in of_shard else [] for name, of_shard in keys.items()}
    write_sidecars(images, Path("data/quarantine"), "quarantine", rejected)
    Path("trained.json").write_text(json.dumps(trained))
    return tmp_path


def test_trains_and_reports(workspace: Path) -> None:
    train.main("lotlip")
    report = json.loads(Path("reports/train/lotlip.json").read_text())
    num_trained = len(json.loads(Path("trained.json").read_text()))
    assert 5 < 40 - num_trained < 20
    assert (report["images"], report["held_out"]) == (40, 40 - num_trained)
    assert (report["rejected_image"], report["failed_long"], report["without_long"]) == (1, 1, 1)
    assert report["samples"] == report["num_samples"] == num_trained - 1
    assert report["steps"] == 2 * ((num_trained - 1) // 10)
    assert all(isinstance(value, int | float) for value in report.values()), "flat numbers"

    curve = list(csv.DictReader(Path("reports/train/lotlip.csv").read_text().splitlines()))
    events = [json.loads(line) for line in Path(".work/events/train/lotlip.jsonl").read_text().splitlines()]
    assert [int(row["step"]) for row in curve] == [event["step"] for event in events]
    assert [float(row["loss"]) for row in curve] == [event["metrics"]["loss"] for event in events]

    model = LotlipModel.from_pretrained("models/lotlip")
    inputs = LotlipProcessor.from_pretrained("models/lotlip")(text=["ba be"])
    assert model.get_text_features(**inputs).shape == (1, 16)


def test_a_second_run_gives_the_same_files(workspace: Path) -> None:
    train.main("lit")
    files = [
        *Path("reports/train").iterdir(),
        *(path for path in Path("models/lit").iterdir() if path.is_file()),
    ]
    first = {file: file.read_bytes() for file in files}
    for path in (Path(".work/train"), Path("models/lit")):
        path.rename(path.with_name(f"{path.name}-old"))
    train.main("lit")
    assert {file: file.read_bytes() for file in files} == first


def stage(method: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "stages.train", method],
        env={**os.environ, "PYTHONPATH": str(TOP), "LOTLIP_LIVE_TRACKING": "0", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def change(**settings: object) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text())
    for name, value in settings.items():
        params["train"][name] = {**params["train"][name], **value} if isinstance(value, dict) else value
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def test_two_processes_stopped_by_a_signal_and_started_again_end_as_one(workspace: Path) -> None:
    change(text_dropout=0.0, epochs=40, learning_rate=1.0e-4)
    train.main("lotlip")
    alone = json.loads(Path("reports/train/lotlip.json").read_text())
    shutil.rmtree(".work/train")

    change(compute={"processes": 2}, checkpoints={"every_steps": 1})
    stopped = stage("lotlip")
    while not list(Path().glob(".work/train/*/step-000000003.pt")):
        assert stopped.poll() is None
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    output, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + signal.SIGTERM, errors
    assert "stopped by a signal; the same command goes on after step " in output

    finished = stage("lotlip")
    output, errors = finished.communicate(timeout=120)
    assert finished.returncode == 0, errors
    assert "resuming after step " in output
    assert json.loads(Path("reports/train/lotlip.json").read_text()) == pytest.approx(alone, rel=1e-3)
    assert output.count("train lotlip: done") == 1, "the second process keeps quiet"


def test_an_error_of_several_processes_is_one_message(workspace: Path) -> None:
    change(compute={"processes": 2}, batch_size=100)
    failed = stage("lit")
    _, errors = failed.communicate(timeout=60)
    assert failed.returncode == 1
    assert errors.count("pairs do not fill one batch of train.batch_size 100: lower it, or give more data") == 1
    assert "Traceback" not in errors


def test_an_error_of_one_process_is_not_buried_under_the_others(workspace: Path) -> None:
    change(compute={"processes": 2})
    (tar, *_) = sorted(Path("data/images/scenes").glob("*.tar"))
    tar.write_bytes(tar.read_bytes()[:5000])
    failed = stage("lit")
    _, errors = failed.communicate(timeout=120)
    assert failed.returncode == 1
    assert tar.name in errors
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line]
    assert all(line.startswith("error: ") for line in lines), errors
    assert len(lines) == len(set(lines)) <= 2, errors


def test_errors(workspace: Path) -> None:
    with pytest.raises(ParamsError, match=r"no method 'lotlipp'.* it has lit, lit_long, lotlip"):
        train.main("lotlipp")
    Path("vit").rename("elsewhere")
    with pytest.raises(ParamsError, match=r"methods\.lit: The image tower vit is not a folder here"):
        train.main("lit")
    Path("data/captions/llava/manifest.json").unlink()
    with pytest.raises(DataError, match=r"llava/manifest\.json is missing"):
        train.main("lit")
