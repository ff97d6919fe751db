"""Evaluation sets: written, read back, refused when damaged."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from lotlip.data.loading.samples import is_held_out
from lotlip.data.manifest import Shard, describe_file, write_manifest
from lotlip.data.shards import write_tar
from lotlip.errors import DataError
from lotlip.evaluation.make_sets import Item, held_out_items, scene_items, write_evalset
from lotlip.evaluation.sets import read_evalset
from lotlip.params import ScenesEvalset
from lotlip.sample import scenes


def scenes_set(texts: str, num_images: int = 6) -> ScenesEvalset:
    return ScenesEvalset(kind="scenes", path=Path("x"), texts=texts, num_images=num_images, seed=5)  # type: ignore[arg-type]


def picture(form: str, shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (shade, 0, 0)).save(buffer, format=form)
    return buffer.getvalue()


def test_long_texts_are_normalised_reference_descriptions(tmp_path: Path) -> None:
    report = write_evalset(tmp_path / "long", "reference", scene_items(scenes_set("reference")))
    evalset = read_evalset(tmp_path / "long")
    assert (evalset.name, evalset.task) == ("long", "retrieval")
    assert evalset.image_of_text == tuple(range(6))
    # A description is sentences with a full stop each: normalising takes the last one away.
    references = [scenes.reference_description(scenes.make_scene(5, i)) for i in range(6)]
    assert evalset.texts == tuple(text.removesuffix(".") for text in references)
    with Image.open(evalset.images[3]) as image:
        assert image.convert("RGB").tobytes() == scenes.render(scenes.make_scene(5, 3)).tobytes()
    assert report["num_images"] == report["num_texts"] == 6
    assert report["sub_captions_per_text"] == pytest.approx(sum(t.count(".") for t in references) / 6, abs=1e-4)
    assert report["characters_per_text"] == pytest.approx(sum(len(t) - 1 for t in references) / 6, abs=1e-4)
    assert json.loads((tmp_path / "long" / "set.json").read_text())["normalize_long"] is True


def test_five_short_captions_an_image(tmp_path: Path) -> None:
    report = write_evalset(tmp_path / "short", "short", scene_items(scenes_set("short")))
    evalset = read_evalset(tmp_path / "short")
    assert len(evalset.texts) == report["num_texts"] == 30
    assert evalset.image_of_text == tuple(i for i in range(6) for _ in range(5))
    assert evalset.texts[10:15] == scenes.short_captions(scenes.make_scene(5, 2))


def test_classes(tmp_path: Path) -> None:
    report = write_evalset(tmp_path / "classes", "classes", scene_items(scenes_set("classes")))
    evalset = read_evalset(tmp_path / "classes")
    assert evalset.task == "classification"
    assert evalset.labels == tuple(scenes.class_label(scenes.make_scene(5, i)) for i in range(6))
    assert evalset.classes[evalset.labels[0]] == scenes.CLASS_NAMES[evalset.labels[0]]
    assert evalset.templates == scenes.CLASS_TEMPLATES
    assert (report["num_texts"], report["num_classes"]) == (0, 64)


def test_equal_settings_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_evalset(tmp_path / name, "short", scene_items(scenes_set("short", 3)))
    first = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    again = {p.relative_to(tmp_path / "b"): p.read_bytes() for p in (tmp_path / "b").rglob("*") if p.is_file()}
    assert first == again
    assert len(first) == 5


def test_held_out_share_keeps_image_bytes_and_skips_empty_captions(tmp_path: Path) -> None:
    samples = []
    for i in range(40):
        form = ("jpeg", "png", "webp")[i % 3]
        extension = "jpg" if form == "jpeg" else form
        caption = "" if i % 8 == 0 else f" picture\n  number {i} "
        samples.append({"__key__": f"{i:020x}", extension: picture(form, i), "txt": caption, "json": {}})
    folder = tmp_path / "photos"
    folder.mkdir()
    count = write_tar(folder / "photos-00000.tar", samples)
    shard = Shard("photos-00000", count, {"tar": describe_file(folder, "photos-00000.tar")})
    write_manifest(folder, "images", [shard])

    report = write_evalset(tmp_path / "set", "raw", held_out_items(folder, 0.4))
    evalset = read_evalset(tmp_path / "set")
    held_out = [i for i in range(40) if is_held_out(f"{i:020x}", 0.4)]
    expected = [i for i in held_out if i % 8]
    assert evalset.texts == tuple(f"picture number {i}" for i in expected)
    endings = ("jpg", "png", "webp")
    assert [path.name for path in evalset.images] == [f"{i:020x}.{endings[i % 3]}" for i in expected]
    assert [p.read_bytes() for p in evalset.images] == [
        samples[i].get("jpg") or samples[i].get("png") or samples[i]["webp"] for i in expected
    ]
    assert report["num_skipped_without_text"] == len(held_out) - len(expected) > 0


def test_duplicate_texts_of_different_images_are_counted(tmp_path: Path) -> None:
    texts = {"a": ("red", "red", "x"), "b": ("red",), "c": ("blue", "y")}
    items = [Item(f"{name}.png", b"", texts=values) for name, values in texts.items()]
    report = write_evalset(tmp_path / "set", "short", items)
    assert report["num_duplicate_texts"] == 3
    assert report["num_texts"] == 6


def test_nothing_to_evaluate_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"would be empty \(1 images had no text\).*held_out_share"):
        write_evalset(tmp_path / "set", "raw", [Item("a.png", b"")])
    assert list(tmp_path.iterdir()) == []


def test_names_must_differ(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"two images are called a\.png"):
        write_evalset(tmp_path / "set", "raw", [Item("a.png", b"", texts=("x",))] * 2)


def test_damaged_sets_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "short"
    with pytest.raises(DataError, match="missing"):
        read_evalset(folder)
    write_evalset(folder, "short", scene_items(scenes_set("short", 3)))
    rows = (folder / "samples.jsonl").read_text().splitlines()

    (folder / "samples.jsonl").write_text("\n".join(rows[:2]))
    with pytest.raises(DataError, match=r"'num_images': 2, 'num_texts': 10.*'num_images': 3.*evalset@short"):
        read_evalset(folder)

    for bad in (
        '{"image": "images/a.png"}',
        '{"image": "images/a.png", "texts": []}',
        "[1]",
        "{",
        '{"texts": ["a"]}',
        '{"image": "images/a.png", "texts": "abcde"}',
        "[" * 100_000,
        "\udcff",
    ):
        (folder / "samples.jsonl").write_bytes("\n".join([*rows[:2], bad]).encode(errors="surrogateescape"))
        with pytest.raises(DataError, match="line 3: expected an object with 'image' and a list 'texts'"):
            read_evalset(folder)

    (folder / "samples.jsonl").write_text("\n".join(rows))
    image = folder / json.loads(rows[1])["image"]
    image.unlink()
    with pytest.raises(DataError, match=f"1 of 3 images.*{image.name}"):
        read_evalset(folder)


CLASSES = '{"task": "classification", "num_images": 3, "num_texts": 0, "templates": ["a {}"], "classes": ["a", 5]}'


@pytest.mark.parametrize("header", ["[]", "{}", '{"task": "retrieval", "classes": 5}', '{"task": "x"}', CLASSES])
def test_a_damaged_header_is_refused(tmp_path: Path, header: str) -> None:
    write_evalset(tmp_path / "long", "reference", scene_items(scenes_set("reference")))
    (tmp_path / "long" / "set.json").write_text(header)
    with pytest.raises(DataError, match=r"long/set\.json is not what .* has to be: Write the set again"):
        read_evalset(tmp_path / "long")


@pytest.mark.parametrize("label", [64, -1, 0.5, True, "1"])
def test_what_is_no_label_is_refused(tmp_path: Path, label: object) -> None:
    folder = tmp_path / "classes"
    write_evalset(folder, "classes", scene_items(scenes_set("classes", 1)))
    row = json.loads((folder / "samples.jsonl").read_text())
    (folder / "samples.jsonl").write_text(json.dumps({**row, "label": label}))
    with pytest.raises(DataError, match="line 1: expected an object with 'image' and 'label' below 64"):
        read_evalset(folder)
