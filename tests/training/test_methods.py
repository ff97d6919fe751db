"""Every system of params.yaml and conf/sample_all.yaml trains: its loss falls, and texts and images find each other."""

from pathlib import Path

import pytest
import torch
import yaml
from scipy.stats import binom

from lotlip.data.shards import ShardReader
from lotlip.evaluation.evaluate import evaluate_model
from lotlip.evaluation.make_sets import Item, write_evalset
from lotlip.model.modeling import LotlipOutput
from lotlip.params import Method
from lotlip.text.subcaptions import normalize_long, split_sub_captions
from lotlip.training.objective import compute_loss
from tests.losses import slow
from tests.losses.slow import unit
from tests.training.tiny_training import Project

TOP = Path(__file__).parents[2]
SYSTEMS = {
    name: Method.model_validate(fields)
    for file in ("params.yaml", "conf/sample_all.yaml")
    for name, fields in yaml.safe_load((TOP / file).read_text())["methods"].items()
}
# Of Long-CLIP's 32 components of 128 the share that 16 dimensions leave.
SYSTEMS["longclip"] = SYSTEMS["longclip"].model_copy(update={"short_components": 4})
NUM = 64  # images, each with one text a set


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One project for all systems, with sets of its own images: `raw` captions and `long` texts."""
    project = Project(tmp_path_factory.mktemp("systems"))
    images: dict[tuple[str, str], bytes] = {}
    for shard in project.images.shards:
        with ShardReader(project.images.path(shard, "tar"), shard.files["tar"].sha256) as reader:
            images |= {(shard.name, key): reader.image(key) for key in reader.keys}

    def items(text_of):  # type: ignore[no-untyped-def]
        return [Item(f"{one.key}.png", images[one.shard, one.key], (text_of(one),)) for one in project.samples]

    write_evalset(project.folder / "raw", "raw", items(lambda one: one.raw))
    write_evalset(project.folder / "long", "reference", items(lambda one: normalize_long(one.long[0])))
    return project


@pytest.mark.parametrize("name", SYSTEMS)
def test_it_learns(shared: Project, name: str) -> None:
    method = SYSTEMS[name]
    changes = {**method.train, "epochs": 60, "text_dropout": 0.0, "run_length": 4}
    result = shared.train(method, name=name, **changes)
    first, last = result.curve[0]["loss"], result.metrics["loss"]
    assert last < 0.6 * first, f"loss from {first} to {last}"
    assert result.metrics["skipped_steps"] == 0
    metrics = evaluate_model(shared.folder / name, shared.folder / ("long" if method.num_long else "raw"), NUM, "cpu")
    by_luck = binom.isf(1e-6, NUM, 1 / NUM)  # as many hits or fewer, but for one model in a million that knows nothing
    for way in ("i2t_r1", "t2i_r1"):
        assert round(metrics[way] / 100 * NUM) > by_luck, f"{way} {metrics[way]}"
    assert metrics["truncated_text_share"] == 0


def test_every_system_of_the_poster_is_there() -> None:
    wanted = {"clip", "filip", "laclip", "siglip", "lit", "lit_long", "longclip", "lotlip"}
    assert wanted <= SYSTEMS.keys()


def output(**changes: torch.Tensor) -> LotlipOutput:
    values = {
        "image_embeds": unit(12, 6),
        "text_embeds": unit(12, 3, 6),
        "logit_scale": torch.tensor(9.0, dtype=torch.float64),
    }
    return LotlipOutput(**{**values, **changes})


def test_long_clips_objective_is_the_sum_of_its_two_parts(project: Project) -> None:
    settings = project.settings(weight_raw=2.0, weight_long=0.5)
    method = SYSTEMS["longclip"]
    made = output(text_embeds=unit(12, 2, 6))
    loss, slots = compute_loss(made, method, settings)
    image, text, scale = made.image_embeds, made.text_embeds, made.logit_scale
    centred = image - image.mean(0)
    basis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -4:]
    principal = image.mean(0) + centred @ basis @ basis.T
    short = slow.contrastive(principal, text[:, :1], scale, [1.0], 0.1)
    long = slow.contrastive(image, text[:, 1:], scale, [1.0], 0.1)
    assert slots.tolist() == pytest.approx([short.item(), long.item()])
    assert loss.item() == pytest.approx((2.0 * short.item() + 0.5 * long.item()) / 2)


def test_weights_hold_for_every_objective(project: Project) -> None:
    settings = project.settings(weight_raw=2.0, weight_long=0.5)
    bias = torch.tensor(-2.0, dtype=torch.float64)
    for objective in ("softmax", "sigmoid"):
        loss, slots = compute_loss(output(logit_bias=bias), Method(objective=objective), settings)
        assert loss.item() == pytest.approx((2.0 * slots[0] + 0.5 * slots[1:].sum()).item() / 3)


def test_texts_of_the_recipe_reach_the_model(project: Project) -> None:
    sample = project.samples[0]
    assert len(split_sub_captions(sample.long[0])) == 4, "what the whole text has and a run of 2 has not"
    whole = project.train(SYSTEMS["longclip"], epochs=1).metrics
    runs = project.train(SYSTEMS["longclip"].model_copy(update={"long_text": "runs"}), epochs=1).metrics
    assert whole["loss_long0_cls"] != runs["loss_long0_cls"]
    assert whole["without_rewrite"] == 64
