"""Published sets in the graph: images stay where they are, and whoever reads the set notices when they change."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lotlip.data.images import check_image
from lotlip.data.layouts.readers import read_layout
from lotlip.errors import DataError, ParamsError
from lotlip.evaluation.sets import read_evalset
from lotlip.records import sha256_file
from lotlip.validation.leaks import find_leaks
from stages.evalset import main
from tests.evaluation import tiny_sets

TOP = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty workspace; DCI lies beside it, ImageNet in it."""
    tiny_sets.dci(tmp_path / "DCI")
    tiny_sets.imagenet(tmp_path / "here/ImageNet")
    monkeypatch.chdir(tmp_path / "here")
    configure(dci={"path": str(tmp_path / "DCI")}, imagenet={"path": "ImageNet"})
    return tmp_path / "here"


def configure(**evalsets: dict[str, Any]) -> None:
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    params["evalsets"] = {name: {"kind": "published", "dataset": name, **values} for name, values in evalsets.items()}
    params["validate"]["tokenizer"] = str(TOP / params["validate"]["tokenizer"])
    Path("params.yaml").write_text(yaml.safe_dump(params))


def report(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"reports/evalset/{name}.json").read_text())
    return found


def test_a_retrieval_set_names_images_where_they_lie(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main("dci")
    folder, photos = Path("data/evalsets/dci"), workspace.parent / "DCI/densely_captioned_images/photos"
    evalset = read_evalset(folder)
    assert evalset.images == tuple(photos / f"sa_{i}.jpg" for i in (2, 0, 3, 1))
    assert evalset.texts[0] == "A green heart. Big green heart. Left"
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["sha256"] for row in rows] == [sha256_file(image) for image in evalset.images]
    assert sorted(path.name for path in folder.iterdir()) == ["samples.jsonl", "set.json"]
    found = report("dci")
    assert found.pop("tokens_per_text") > 0
    assert found == {
        "num_images": 4,
        "num_texts": 4,
        "num_skipped_without_text": 0,
        "num_duplicate_texts": 0,
        "sub_captions_per_text": 3.0,
        "characters_per_text": 35.5,
        "num_missing_images": 0,
        "num_empty_texts": 0,
        "num_duplicate_images": 0,
        "num_set_images": 7805,
    }
    assert "this is only a part of it" in capsys.readouterr().out
    assert [entry.texts for entry in read_layout("jsonl", folder)][1] == ("A red circle. Big red circle. Left",)


def test_a_classification_set_below_the_workspace(workspace: Path) -> None:
    main("imagenet")
    evalset = read_evalset(Path("data/evalsets/imagenet"))
    assert (evalset.task, evalset.labels) == ("classification", (0, 0, 1, 999, 999))
    assert (len(evalset.classes), len(evalset.templates)) == (1000, 80)
    assert all(image.is_file() for image in evalset.images)
    assert (report("imagenet")["num_classes"], report("imagenet")["num_classes_present"]) == (1000, 3)


def test_the_same_images_give_the_same_bytes_and_others_do_not(workspace: Path) -> None:
    main("dci")
    file = Path("data/evalsets/dci/samples.jsonl")
    first = file.read_bytes()
    main("dci")
    assert file.read_bytes() == first
    tiny_sets.picture(workspace.parent / "DCI/densely_captioned_images/photos/sa_3.jpg", 99)
    with pytest.raises(DataError, match=r"1 of 4 images .* have changed since then, first .*sa_3\.jpg"):
        read_evalset(file.parent)
    main("dci")
    assert file.read_bytes() != first
    assert len(read_evalset(file.parent).images) == 4


def test_missing_images(workspace: Path) -> None:
    main("dci")
    image = workspace.parent / "DCI/densely_captioned_images/photos/sa_0.jpg"
    image.unlink()
    with pytest.raises(
        DataError, match=r"1 of 4 images of data/evalsets/dci are missing below .*DCI, first .*sa_0\.jpg"
    ):
        read_evalset(Path("data/evalsets/dci"))
    with pytest.raises(DataError, match=rf"missing images: 1\n  {image}"):
        main("dci")
    configure(dci={"path": str(workspace.parent / "DCI"), "allow_missing": True})
    main("dci")
    assert (report("dci")["num_images"], report("dci")["num_missing_images"]) == (3, 1)


def test_equal_images_are_counted(workspace: Path) -> None:
    photos = workspace.parent / "DCI/densely_captioned_images/photos"
    (photos / "sa_1.jpg").write_bytes((photos / "sa_2.jpg").read_bytes())
    main("dci")
    assert report("dci")["num_duplicate_images"] == 1


def test_images_apart_from_the_annotations(workspace: Path) -> None:
    tiny_sets.sharegpt4v(workspace.parent / "SA-1B")
    (workspace / "sv").mkdir()
    (workspace.parent / "SA-1B/share4v_sam_10k.json").rename(workspace / "sv/share4v_sam_10k.json")
    configure(sharegpt4v_1k={"path": "sv", "images": str(workspace.parent / "SA-1B")})
    main("sharegpt4v_1k")
    assert len(read_evalset(Path("data/evalsets/sharegpt4v_1k")).images) == 3


def test_the_leak_gate_sees_the_images(workspace: Path) -> None:
    import pandas as pd

    main("dci")
    data = (workspace.parent / "DCI/densely_captioned_images/photos/sa_3.jpg").read_bytes()
    picture = check_image(data, 10**6)
    trained = pd.DataFrame({"sha256": [picture.sha256, "0" * 64], "phash": [picture.phash, None]})
    leaks = find_leaks(trained, {"dci": Path("data/evalsets/dci")}, 0, 10**6)
    assert leaks[["row", "set", "distance"]].to_numpy().tolist() == [[0, "dci", 0]]
    assert leaks["image"].tolist() == [str(workspace.parent / "DCI/densely_captioned_images/photos/sa_3.jpg")]


def test_an_unknown_published_set(workspace: Path) -> None:
    configure(mine={"path": "x", "dataset": "dcii"})
    with pytest.raises(ParamsError, match=r"evalsets\.mine\.dataset: .*'dci'"):
        main("mine")


def test_a_set_whose_rows_lead_out_is_refused(workspace: Path) -> None:
    main("dci")
    file = Path("data/evalsets/dci/samples.jsonl")
    file.write_text(file.read_text().replace("densely_captioned_images/photos/sa_0.jpg", "../../etc/passwd"))
    with pytest.raises(DataError, match="is refused"):
        read_evalset(file.parent)
