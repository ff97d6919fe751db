"""What a training run is: everything that determines its weights, as a flat configuration with a hash for a name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.manifest import Manifest
from lotlip.model.build import Parts
from lotlip.params import Method, Train
from lotlip.records import content_key, read_json, write_json
from lotlip.training.checkpoint import COMPLETE, differences, saved_steps
from lotlip.training.features.cache import weights_hash

TRAIN_VERSION = 4  # raise it when the same settings and samples would give other weights
# With these settings results stay what they are, but for rounding and the draws of dropout: so a run may go on with
# other ones, on other machines.
NO_RESULT_CHANGES = {
    "num_workers": True,
    "device": True,
    "checkpoints": True,
    "compute": {
        "processes",
        "sharding",
        "micro_batch_size",
        "gradient_checkpointing",
        "compile",
        "sdpa",
        "deterministic",
    },
}


def run_config(
    parts: Parts, samples: SampleTable, images: Sequence[Manifest], settings: Train, method: Method
) -> dict[str, Any]:
    """Everything that determines the trained weights, flat; of large things their hashes."""
    tars = {shard.name: shard.files["tar"].sha256 for manifest in images for shard in manifest.shards}
    return {
        "version": TRAIN_VERSION,
        **_flat("train", settings.model_dump(mode="json", exclude=NO_RESULT_CHANGES)),  # type: ignore[arg-type]
        **_flat("method", method.model_dump(mode="json", exclude={"train"})),
        "initial_weights": weights_hash(parts.model),
        "image_transform": content_key(asdict(parts.image_settings)),
        "vocabulary": content_key(parts.tokenizer.fingerprint()),
        "images": content_key({name: tars.get(name) for name in sorted(samples.shards)}),
        "texts": samples.texts_hash,
    }


def run_folder(work: Path, config: Mapping[str, Any]) -> Path:
    """Where a run of this configuration keeps its checkpoints."""
    return work / "train" / content_key(config)


def note_run(folder: Path, name: str, config: Mapping[str, Any]) -> str | None:
    """Write down whose folder it is; returns in words how an unfinished run of the same name differs, if there is one.

    Without a word, somebody who changed a setting in the middle of a long run would wonder why it starts anew.
    """
    if (folder / "run.json").is_file():
        return None
    others = []
    for path in folder.parent.glob("*/run.json"):
        step = max(saved_steps(path.parent), default=0)
        found = read_json(path)
        if found["name"] == name and step and not (path.parent / COMPLETE).exists():
            others.append((path.stat().st_mtime, step, found["config"], path.parent))
    write_json(folder / "run.json", {"name": name, "config": dict(config)})
    if not others:
        return None
    _, step, old, where = max(others, key=lambda other: other[0])
    changes = differences(_without_weights(old), _without_weights(config))
    return (
        f"an unfinished run stands at step {step} in {where} and is not resumed, for it has other settings: "
        f"{'; '.join(changes) or 'initial weights'}. Set them back to go on with it, or remove its folder"
    )


def _without_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that the first weights follow from say more than their hash."""
    return {name: value for name, value in config.items() if name != "initial_weights"}


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        where = f"{prefix}.{name}"
        flat.update(_flat(where, value) if isinstance(value, dict) and value else {where: value})
    return flat
