"""How well the captioners' agreement tells what is not there, on the sample, where the scenes are the truth.

    python -m lotlip.sample.hallucination [--source scenes]

Reads data/quality of a run (`dvc repro quality`). An object of a caption is hallucinated when nothing of that colour
and shape is in the scene.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip.data.manifest import read_manifest
from lotlip.data.sources.requests import sample_key
from lotlip.errors import DataError, LotlipError
from lotlip.evaluation.agreement import support
from lotlip.params import ScenesSource, entry, load_params
from lotlip.sample.scenes import Scene, make_scene


@dataclass(frozen=True)
class Mention:
    """An object that a caption names: the share of other captioners that do (None: there are none); is it there?"""

    captioner: str
    support: float | None
    is_there: bool


@dataclass(frozen=True)
class Judged:
    """A caption: its similarity with the image, and what it names of the scene's objects."""

    captioner: str
    similarity: float
    mentions: tuple[Mention, ...]
    num_present: int

    @property
    def num_found(self) -> int:
        return sum(mention.is_there for mention in self.mentions)


def judge(named: Mapping[str, frozenset[str]], similarity: Mapping[str, float], scene: Scene) -> Iterator[Judged]:
    """Compare what each captioner names with the scene."""
    present = {f"{thing.colour} {thing.shape}" for thing in scene.objects}
    supported = support(named)
    for captioner, things in named.items():
        shares = supported[captioner]
        mentions = tuple(Mention(captioner, shares.get(thing), thing in present) for thing in sorted(things))
        yield Judged(captioner, similarity[captioner], mentions, len(present))


def summarise(captions: list[Judged]) -> dict[str, Any]:
    """Truth beside what agreement says of it.

    Returns:
        `by_support`: for each share of others that agree, the number of mentions and the share hallucinated;
        `auc_support`, that a hallucinated mention has less support than a true one (0.5: no better than chance);
        `flagged`: of the mentions without any support the share hallucinated (`precision`), and of the hallucinated
        the share without support (`recall`); `auc_similarity`, that a caption with a hallucination is less similar to
        its image than one without; `captioners`: true shares of mentions hallucinated and of objects named, by each.
    """
    from sklearn.metrics import roc_auc_score

    mentions = [mention for caption in captions for mention in caption.mentions]
    compared = [(mention.support, not mention.is_there) for mention in mentions if mention.support is not None]
    levels: dict[float, list[bool]] = defaultdict(list)
    for share, is_wrong in compared:
        levels[round(share, 3)].append(is_wrong)
    wrong = [is_wrong for _, is_wrong in compared]
    alone = levels.get(0.0, [])
    has_wrong = [caption.num_found < len(caption.mentions) for caption in captions]
    similarity = [-caption.similarity for caption in captions]
    captioners = {}
    for name in sorted({caption.captioner for caption in captions}):
        own = [caption for caption in captions if caption.captioner == name]
        found, said = sum(c.num_found for c in own), sum(len(c.mentions) for c in own)
        unsupported = sum(m.support == 0 for c in own for m in c.mentions)
        captioners[name] = {
            "hallucinated": _share(said - found, said),
            "unsupported": _share(unsupported, said),
            "objects_named": _share(found, sum(c.num_present for c in own)),
        }
    return {
        "captions": len(captions),
        "mentions": len(mentions),
        "hallucinated": _share(sum(not mention.is_there for mention in mentions), len(mentions)),
        "by_support": {
            f"{level:g}": {"mentions": len(found), "hallucinated": round(sum(found) / len(found), 4)}
            for level, found in sorted(levels.items())
        },
        "auc_support": _auc(roc_auc_score, wrong, [-share for share, _ in compared]),
        "flagged": {"precision": _share(sum(alone), len(alone)), "recall": _share(sum(alone), sum(wrong))},
        "auc_similarity": _auc(roc_auc_score, has_wrong, similarity),
        "captioners": captioners,
    }


def read_judged(source: ScenesSource, quality: Path) -> list[Judged]:
    """Every caption of a run's quality folder, judged by the scene that its image was drawn from.

    Raises:
        DataError: a key belongs to no scene of the source.
    """
    import pyarrow.parquet as pq

    scene_of = {sample_key(b"scenes", str(source.seed).encode(), str(i).encode()): i for i in range(source.num_images)}
    manifest = read_manifest(quality, "quality")
    judged: list[Judged] = []
    for shard in manifest.shards:
        by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in pq.read_table(manifest.path(shard, "table")).to_pylist():
            by_key[row["key"]].append(row)
        for key, rows in by_key.items():
            if key not in scene_of:
                raise DataError(f"{quality}: {key} is no scene of this source: run `dvc repro quality`.")
            named = {row["captioner"]: frozenset(filter(None, row["objects"].split(", "))) for row in rows}
            similarity = {row["captioner"]: row["similarity"] for row in rows}
            judged += judge(named, similarity, make_scene(source.seed, scene_of[key]))
    return judged


def _share(count: int, total: int) -> float | None:
    return round(count / total, 4) if total else None


def _auc(score: Any, labels: list[bool], values: list[float]) -> float | None:
    return round(float(score(labels, values)), 4) if len(set(labels)) == 2 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="scenes")
    name = parser.parse_args().source
    try:
        source = entry(load_params().sources, "source", name)
        if not isinstance(source, ScenesSource):
            raise DataError(f"{name} is no source of kind scenes: of other images nobody knows what is on them.")
        print(json.dumps(summarise(read_judged(source, Path("data/quality"))), indent=2))
    except LotlipError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
