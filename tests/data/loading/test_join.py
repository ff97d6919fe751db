"""Joining: counts by hand, and by a slow reference; made once, in little memory."""

import random
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import lotlip.data.loading.join as join
from lotlip.data.loading.join import COUNTS, join_samples, join_shards
from lotlip.data.loading.samples import Sample, is_held_out
from lotlip.data.manifest import Manifest
from lotlip.data.tables import Row, read_records
from lotlip.errors import DataError
from tests.data.folders import folder_bytes, image_folder, image_row, long_row, sidecar

KEYS = [f"key{i:03d}" for i in range(400)]


class Inputs(NamedTuple):
    images: list[Manifest]
    captions: dict[str, Manifest]
    quarantine: Manifest | None = None
    held_out: dict[str, float] | None = None


def test_join_drops_and_counts_what_is_rejected(tmp_path: Path) -> None:
    lost = Row("lost", "http://a", "failed_to_download", "HTTP 404", "A lost one.")
    images = image_folder(
        tmp_path / "i",
        {
            "s-00000": [image_row("a", "raw a"), lost, image_row("b"), image_row("c")],
            "s-00001": [image_row("d")],
        },
    )
    one = {"s-00000": [long_row(k, f"one {k}") for k in "abc"], "s-00001": [long_row("d", "", "empty")]}
    two = {"s-00000": [long_row("a", "two a"), long_row("b", "two b"), long_row("c", "  ")], "s-00001": []}
    captions = {
        "one": sidecar(tmp_path / "one", "captions", images, one),
        "two": sidecar(tmp_path / "two", "captions", images, two),
    }
    rejected = [
        {"key": "b", "subject": "image", "reason": "too small"},
        {"key": "b", "subject": "image", "reason": "too long"},
        {"key": "c", "subject": "raw", "reason": "empty"},
        {"key": "a", "subject": "two", "reason": "repeats"},
    ]
    quarantine = sidecar(tmp_path / "q", "quarantine", images, {"s-00000": rejected})
    table = join_samples([images], captions, quarantine, work=tmp_path)
    assert list(table) == [Sample("s-00000", "a", "raw a", ("one a",)), Sample("s-00001", "d", "A dog.", ())]
    assert table.counts == {
        "images": 4,
        "held_out": 0,
        "held_out_twins": 0,
        "rejected_image": 1,
        "rejected_raw": 1,
        "rejected_long": 1,
        "failed_long": 2,
        "long_texts": 1,
        "rewrites": 0,
        "without_long": 1,
        "without_rewrite": 2,
        "samples": 2,
    }


def test_held_out_samples_and_their_twins_stay_away(tmp_path: Path) -> None:
    held = next(key for key in KEYS if is_held_out(key, 0.3))
    free = [key for key in KEYS if not is_held_out(key, 0.3)][:2]
    rows = [image_row(held, sha256="same"), image_row(free[0], sha256="same"), image_row(free[1])]
    images = [
        image_folder(tmp_path / "s", {"s-00000": rows}),
        image_folder(tmp_path / "t", {"t-00000": rows}),
    ]
    table = join_samples(images, {}, held_out={"s": 0.3}, work=tmp_path)
    counts = table.counts
    assert [(sample.shard, sample.key) for sample in table] == [("s-00000", free[1]), ("t-00000", free[1])]
    assert (counts["images"], counts["held_out"], counts["held_out_twins"]) == (6, 1, 3)


def test_sidecars_of_other_images_are_refused(tmp_path: Path) -> None:
    before = image_folder(tmp_path / "a", {"s-00000": [image_row("a")]})
    captions = sidecar(tmp_path / "c", "captions", before, {})
    now = image_folder(tmp_path / "b", {"s-00000": [image_row("b")]})
    with pytest.raises(DataError, match="made from other images"):
        join_samples([now], {"c": captions}, work=tmp_path)
    other = image_folder(tmp_path / "d", {"t-00000": [image_row("a")]})
    with pytest.raises(DataError, match="no shard 't-00000'"):
        join_samples([other], {"c": captions}, work=tmp_path)


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "a", {"s-00000": [image_row("a")]})
    path = tmp_path / "a" / "s-00000.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="another sha256"):
        join_samples([images], {}, work=tmp_path)
    assert not any(path.is_dir() for path in (tmp_path / "samples").iterdir())


def join_slowly(inputs: Inputs) -> tuple[list[Sample], dict[str, int]]:
    """By definition, every table searched from its beginning for every sample."""

    def records(manifest: Manifest, name: str) -> list[dict[str, Any]]:
        return read_records(manifest.folder / f"{name}.parquet", ["key", *COLUMNS[manifest.kind]])

    def text_of(captioner: str, shard: str, key: str, kind: str) -> str | None:
        found = [r for r in records(inputs.captions[captioner], shard) if (r["key"], r["kind"]) == (key, kind)]
        good = [r["text"] for r in found if r["failure"] is None and r["text"] is not None and r["text"].strip()]
        return good[0] if good else None

    def shows(shard: str, key: str, subject: str) -> bool:
        rows = [] if inputs.quarantine is None else records(inputs.quarantine, shard)
        return any((r["key"], r["subject"]) == (key, subject) for r in rows)

    def is_held(shard: str, key: str) -> bool:
        return is_held_out(key, (inputs.held_out or {}).get(shard[:-6], 0.0))

    counts, samples = dict.fromkeys(COUNTS, 0), []
    rows = [
        (shard.name, r)
        for m in inputs.images
        for shard in m.shards
        for r in records(m, shard.name)
        if r["status"] == "success"
    ]
    for shard, row in rows:
        key = row["key"]
        twins = [k for s, k in ((s, r["key"]) for s, r in rows if r["sha256"] == row["sha256"]) if is_held(s, k)]
        counts["images"] += 1
        if is_held(shard, key):
            counts["held_out"] += 1
        elif twins:
            counts["held_out_twins"] += 1
        elif shows(shard, key, "image"):
            counts["rejected_image"] += 1
        elif shows(shard, key, "raw"):
            counts["rejected_raw"] += 1
        else:
            texts = [(captioner, text_of(captioner, shard, key, "long")) for captioner in inputs.captions]
            good = tuple(t for captioner, t in texts if t is not None and not shows(shard, key, captioner))
            counts["failed_long"] += sum(t is None for _, t in texts)
            counts["rejected_long"] += sum(t is not None and shows(shard, key, captioner) for captioner, t in texts)
            kinds = [[text_of(c, shard, key, kind) for c in inputs.captions] for kind in ("rewrite", "short")]
            rewrites, shorts = (tuple(t for t in of_kind if t is not None) for of_kind in kinds)
            samples.append(Sample(shard, key, row["caption"] or "", good, rewrites or shorts))
    counts["samples"] = len(samples)
    counts["long_texts"] = sum(len(sample.long) for sample in samples)
    counts["rewrites"] = sum(len(sample.rewrites) for sample in samples)
    counts["without_long"] = sum(not sample.long for sample in samples)
    counts["without_rewrite"] = sum(not sample.rewrites for sample in samples)
    return samples, counts


COLUMNS = {
    "images": ("status", "caption", "sha256"),
    "captions": ("kind", "text", "failure"),
    "quarantine": ("subject",),
}


def random_inputs(folder: Path, seed: int) -> Inputs:
    """Two sources of some shards, of which one may be empty; every reason to leave something out comes up."""
    rng = random.Random(seed)
    images = []
    for source in ("s", "t"):
        shards: dict[str, list[Row]] = {}
        for number in range(rng.randint(1, 3)):
            rows = [
                image_row(key, rng.choice(["", "A dog.", f"Ünï {key}"]), rng.choice(["twin", key.ljust(64, "0")]))
                for key in rng.sample(KEYS, rng.randint(0, 12))
            ]
            rows = [replace(r, status="failed_to_decode") if rng.random() < 0.1 else r for r in rows]
            shards[f"{source}-{number:05d}"] = [replace(r, caption=None) if rng.random() < 0.1 else r for r in rows]
        images.append(image_folder(folder / source, shards))
    every = Manifest(folder, "images", tuple(shard for manifest in images for shard in manifest.shards))
    keys = {
        shard.name: [r["key"] for r in read_records(m.folder / f"{shard.name}.parquet", ["key"])]
        for m in images
        for shard in m.shards
    }

    def caption(key: str) -> list[dict[str, Any]]:
        kinds = [kind for kind in ("long", "short", "rewrite") if rng.random() < 0.6]
        texts = [None, "", "  ", *(f"{key} {i}. Ü." for i in range(6))]
        return [
            {**long_row(key, rng.choice(texts), rng.choice([None, None, None, "empty"])), "kind": kind}
            for kind in kinds
        ]

    captions = {
        name: sidecar(
            folder / name, "captions", every, {s: [row for key in of for row in caption(key)] for s, of in keys.items()}
        )
        for name in ("two", "one")
    }
    rejected = {
        s: [
            {"key": key, "subject": rng.choice(["image", "raw", "one", "two"]), "reason": "bad"}
            for key in of
            if rng.random() < 0.3
        ]
        for s, of in keys.items()
    }
    quarantine = sidecar(folder / "q", "quarantine", every, rejected) if rng.random() < 0.8 else None
    return Inputs(images, captions, quarantine, rng.choice([None, {"s": 0.2}, {"s": 0.1, "t": 0.3}]))


def test_the_table_is_what_the_slow_reference_joins(tmp_path: Path) -> None:
    seen: dict[str, int] = dict.fromkeys(COUNTS, 0)
    for seed in range(20):
        inputs = random_inputs(tmp_path / str(seed), seed)
        samples, counts = join_slowly(inputs)
        made, opened = (join_samples(*inputs, work=tmp_path / "work") for _ in range(2))
        assert list(made) == list(opened) == samples
        assert made.counts == opened.counts == counts
        assert list(made.counts) == list(COUNTS)
        assert made.texts_hash == opened.texts_hash
        assert [s for shard in join_shards(*inputs) for s in shard] == samples
        seen = {name: seen[name] + counts[name] for name in COUNTS}
    assert all(seen.values()), "each count was put to the test"


def many_shards(folder: Path, num_shards: int) -> Inputs:
    """Shards of 300 samples with a text of 2 kB each."""
    names = [f"s-{number:05d}" for number in range(num_shards)]
    images = image_folder(folder / "s", {name: [image_row(f"{name}/{i}") for i in range(300)] for name in names})
    long = {name: [long_row(f"{name}/{i}", f"{i} {name}. " * 100) for i in range(300)] for name in names}
    return Inputs([images], {"one": sidecar(folder / "one", "captions", images, long)})


def test_memory_holds_one_shard_at_a_time(tmp_path: Path) -> None:
    peaks = []
    for num_shards in (2, 2, 16):  # the first time, modules are imported
        inputs = many_shards(tmp_path / f"{len(peaks)}", num_shards)
        tracemalloc.start()
        table = join_samples(*inputs, work=tmp_path / f"work{len(peaks)}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(table) == 300 * num_shards
    assert peaks[2] < 1.3 * peaks[1]
    assert peaks[2] < sum(len(sample.long[0]) for sample in table) / 2


def change_a_text(inputs: Inputs, folder: Path) -> Inputs:
    rows = {"s-00000": [long_row(f"s-00000/{i}", "Another.") for i in range(300)]}
    return inputs._replace(captions={"one": sidecar(folder / "other", "captions", inputs.images[0], rows)})


def reject_one(inputs: Inputs, folder: Path) -> Inputs:
    rows = {"s-00000": [{"key": "s-00000/0", "subject": "raw", "reason": "bad"}]}
    return inputs._replace(quarantine=sidecar(folder / "q", "quarantine", inputs.images[0], rows))


def fewer_images(inputs: Inputs, folder: Path) -> Inputs:
    return inputs._replace(images=[replace(inputs.images[0], shards=inputs.images[0].shards[:1])])


def another_name(inputs: Inputs, folder: Path) -> Inputs:
    return inputs._replace(captions={"renamed": inputs.captions["one"]})


def two_captioners(inputs: Inputs, folder: Path) -> Inputs:
    return inputs._replace(captions={**inputs.captions, "two": inputs.captions["one"]})


def hold_some_out(inputs: Inputs, folder: Path) -> Inputs:
    return inputs._replace(held_out={"s": 0.1})


CHANGES = [change_a_text, reject_one, fewer_images, another_name, two_captioners, hold_some_out]


def test_any_other_input_is_another_table(tmp_path: Path) -> None:
    inputs, work = many_shards(tmp_path, 2), tmp_path / "work"
    changed = [inputs, *(change(inputs, tmp_path) for change in CHANGES)]
    both = change_a_text(two_captioners(inputs, tmp_path), tmp_path / "again")
    texts = {"one": inputs.captions["one"], "two": both.captions["one"]}
    orders = (["one", "two"], ["two", "one"])  # of a sample's texts
    changed += [inputs._replace(captions={name: texts[name] for name in order}) for order in orders]
    found = [list(join_samples(*each, work=work)) for each in changed]
    assert len(folders(work)) == len(found) == 9
    before = folder_bytes(work)
    assert list(join_samples(*inputs, work=work)) == found[0]
    assert folder_bytes(work) == before


def folders(work: Path) -> list[Path]:
    return [path for path in (work / "samples").iterdir() if path.is_dir()]


def test_the_same_inputs_give_the_same_bytes_and_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = many_shards(tmp_path, 2)
    for work in ("a", "b"):
        join_samples(*inputs, work=tmp_path / work)
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")

    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(join, "read_table", refuse)
    assert len(join_samples(*inputs, work=tmp_path / "a")) == 600


def test_a_shard_that_comes_twice_is_refused(tmp_path: Path) -> None:
    inputs = many_shards(tmp_path, 1)
    with pytest.raises(DataError, match="Samples of shard 's-00000' come in two places"):
        join_samples([*inputs.images, *inputs.images], inputs.captions, work=tmp_path)
    assert folders(tmp_path) == []
