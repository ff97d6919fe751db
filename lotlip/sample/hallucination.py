"""How well the captioners' agreement tells what is not there, on the sample, where the scenes are the truth.

    python -m lotlip.sample.hallucination [--source scenes]

Reads data/quality of a run (`dvc repro quality`). An object of a caption is hallucinated when nothing of that colour
and shape is in the scene.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip.data.manifest import read_manifest
from lotlip.data.sources import sample_key
from lotlip.errors import DataError
from lotlip.evaluation.agreement import support
from lotlip.params import ScenesSource, load_params
from lotlip.sample.scenes import Scene, make_scene


@dataclass(frozen=True)
class Mention:
    """An object that a caption names: the share of the other captioners that name it, and whether it is there."""

    captioner: str
    support: float
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
    for captioner, shares in support(named).items():
        mentions = tuple(Mention(captioner, share, thing in present) for thing, share in shares.items())
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
    levels: dict[float, list[bool]] = defaultdict(list)
    for mention in mentions:
        levels[round(mention.support, 3)].append(not mention.is_there)
    wrong = [not mention.is_there for mention in mentions]
    alone = levels.get(0.0, [])
    has_wrong = [caption.num_found < len(caption.mentions) for caption in captions]
    similarity = [-caption.similarity for caption in captions]
    captioners = {}
    for name in sorted({caption.captioner for caption in captions}):
        own = [caption for caption in captions if caption.captioner == name]
        found, said = sum(c.num_found for c in own), sum(len(c.mentions) for c in own)
        unsupported = sum(m.support == 0 for c in own for m in c.mentions)
        captioners[name] = {
            "hallucinated": round(1 - found / max(said, 1), 4),
            "unsupported": round(unsupported / max(said, 1), 4),
            "objects_named": round(found / max(sum(c.num_present for c in own), 1), 4),
        }
    return {
        "captions": len(captions),
        "mentions": len(mentions),
        "hallucinated": round(sum(wrong) / max(len(wrong), 1), 4),
        "by_support": {
            f"{level:g}": {"mentions": len(found), "hallucinated": round(sum(found) / len(found), 4)}
            for level, found in sorted(levels.items())
        },
        "auc_support": _auc(roc_auc_score, wrong, [-mention.support for mention in mentions]),
        "flagged": {
            "precision": round(sum(alone) / max(len(alone), 1), 4),
            "recall": round(sum(alone) / max(sum(wrong), 1), 4),
        },
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


def _auc(score: Any, labels: list[bool], values: list[float]) -> float | None:
    return round(float(score(labels, values)), 4) if len(set(labels)) == 2 else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="scenes")
    source = load_params().sources[parser.parse_args().source]
    if not isinstance(source, ScenesSource):
        raise SystemExit("This needs a source of kind scenes: only drawn scenes are known to the object.")
    print(json.dumps(summarise(read_judged(source, Path("data/quality"))), indent=2))


if __name__ == "__main__":
    main()
