"""params.yaml as a user edits it: misspelt keys name the nearest valid one, overlays merge and keep comments."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lotlip.errors import ParamsError
from lotlip.overlays import apply_overlays
from lotlip.params import entry, load_params, parse_params

TOP = Path(__file__).parents[1]


@pytest.fixture
def values() -> Any:
    return copy.deepcopy(yaml.safe_load((TOP / "params.yaml").read_text()))


def set_at(values: Any, dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for key in path:
        values = values[key]
    values[last] = value


@pytest.mark.parametrize(
    ("dotted", "nearest"),
    [
        ("trian", "train"),
        ("train.epoch", "epochs"),
        ("sources.scenes.num_imges", "num_images"),
        ("captioners.llava.promt", "prompt"),
        ("validate.long.max_token", "max_tokens"),
        ("methods.lotlip.corner_token", "corner_tokens"),
        ("evalsets.long.nun_images", "num_images"),
        ("train.augment.num_op", "num_ops"),
    ],
)
def test_a_misspelt_key_names_the_nearest(values: Any, dotted: str, nearest: str) -> None:
    values["train"]["augment"] = {}
    set_at(values, dotted, 3)
    with pytest.raises(ParamsError) as error:
        parse_params(values, "params.yaml")
    assert f"params.yaml: {dotted}: unknown key; did you mean '{nearest}'?" in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lotlip", {"model": "weights/x"}, "checkpoints.lotlip: a method has this name"),
        ("chance", {"model": "weights/x"}, "checkpoints.chance: a row of the comparison has this name"),
        ("clip", {"model": "openai/clip", "revision": "main"}, "checkpoints.clip.revision: .*got 'main'"),
        ("clip", {"modle": "openai/clip"}, "checkpoints.clip.modle: unknown key; did you mean 'model'?"),
    ],
)
def test_a_checkpoint_has_a_name_of_its_own_and_a_commit(values: Any, name: str, settings: Any, message: str) -> None:
    values["checkpoints"] = {name: settings}
    with pytest.raises(ParamsError, match=message):
        parse_params(values, "params.yaml")


def test_checkpoints_fill_the_empty_section_and_leave_it_empty(target: Path) -> None:
    apply_overlays([TOP / "conf/checkpoints.yaml"], [], target)
    assert list(load_params(target).checkpoints) == ["clip_b16", "clip_b32", "siglip_b16", "align_base"]
    apply_overlays([], [f"checkpoints.{name}=null" for name in load_params(target).checkpoints], target)
    assert load_params(target).checkpoints == {}
    assert "checkpoints: {}" in target.read_text()


def test_a_missing_key_and_a_wrong_type_are_both_told(values: Any) -> None:
    del values["train"]["epochs"]
    values["train"]["batch_size"] = "many"
    with pytest.raises(ParamsError) as error:
        parse_params(values, "params.yaml")
    assert "train.epochs: missing" in str(error.value)
    assert "train.batch_size: " in str(error.value)
    assert "'many'" in str(error.value)


def test_a_method_is_what_differs_from_lit_and_may_set_its_own_training(values: Any) -> None:
    values["methods"]["mine"] = {"num_long": 2, "train": {"token_limit": 77, "weight_long": 0.5}}
    params = parse_params(values, "params.yaml")
    assert params.methods["mine"].objective == "softmax"
    settings = params.train_settings("mine")
    assert (settings.token_limit, settings.weight_long) == (77, 0.5)
    assert settings.epochs == params.train.epochs
    assert params.train_settings("lit") == params.train


def test_augmentation_of_an_unlocked_tower(values: Any) -> None:
    values["methods"]["mine"] = {"image_tower": "unlocked", "train": {"augment": {"flip": 0.5}}}
    augment = parse_params(values, "params.yaml").train_settings("mine").augment
    assert augment is not None
    assert (augment.flip, augment.scale, augment.num_ops) == (0.5, (0.9, 1.0), 0)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"train": {"token_limt": 7}}, "methods.mine.train.token_limt: unknown key; did you mean 'token_limit'?"),
        ({"train": {"epochs": -1}}, "methods.mine.train.epochs: Input should be greater than 0, got -1"),
        ({"train": {"augment": {"flipp": 1}}}, "methods.mine.train.augment.flipp: unknown key; did you mean 'flip'?"),
        (
            {"train": {"augment": {"scale": [1.0, 0.5]}}},
            "methods.mine.train.augment.scale: expected [least",
        ),
        ({"train": {"cached_crops": 2}}, "methods.mine: cached_crops 2 needs train.augment"),
        ({"text_tower": "causal", "corner_tokens": 2}, "corner_tokens need text_tower: bert"),
        ({"objective": "sigmoid", "label_smoothing": 0.1}, "belong to objective: softmax, not sigmoid"),
        ({"objective": "late_interaction", "num_long": 1}, "takes one text an image"),
        ({"objective": "softmin"}, "'softmax', 'sigmoid' or 'late_interaction', got 'softmin'"),
    ],
)
def test_methods_that_contradict_themselves(values: Any, method: dict[str, Any], message: str) -> None:
    values["methods"]["mine"] = method
    with pytest.raises(ParamsError) as error:
        parse_params(values, "params.yaml")
    assert message in str(error.value)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "CPU"])
def test_a_device_that_is_none(values: Any, device: str) -> None:
    values["train"]["device"] = device
    with pytest.raises(ParamsError, match=rf"train.device: .*got '{device}'"):
        parse_params(values, "params.yaml")


def test_a_source_without_kind(values: Any) -> None:
    values["sources"]["mine"] = {"path": "mine.tsv"}
    with pytest.raises(ParamsError, match=r"sources.mine.kind: missing"):
        parse_params(values, "params.yaml")


def test_an_unknown_kind_lists_the_kinds(values: Any) -> None:
    values["sources"]["mine"] = {"kind": "url_tabel"}
    with pytest.raises(ParamsError, match=r"sources.mine: .*'scenes', 'url_table', 'shards'"):
        parse_params(values, "params.yaml")


def test_a_holdout_set_needs_a_source_that_holds_out(values: Any) -> None:
    values["evalsets"]["mine"] = {"kind": "holdout", "path": "data/images/elsewhere"}
    with pytest.raises(ParamsError, match=r"images lie in data/images/scenes"):
        parse_params(values, "params.yaml")
    values["evalsets"]["mine"]["path"] = "data/images/scenes"
    with pytest.raises(ParamsError, match=r"needs sources.scenes.held_out_share above 0"):
        parse_params(values, "params.yaml")


def test_weights_are_of_all_sources_and_of_no_other(values: Any) -> None:
    values["train"]["source_weights"] = {"scenes": 2.0}
    assert parse_params(values, "params.yaml").train.source_weights == {"scenes": 2.0}
    values["methods"]["lit"]["train"] = {"source_weights": {"cc3m": 1.0}}
    with pytest.raises(ParamsError, match=r"source_weights of method lit has scenes, cc3m, and the sources are scenes"):
        parse_params(values, "params.yaml")
    values["train"]["source_weights"] = {"scenes": 0.0}
    with pytest.raises(ParamsError, match=r"train\.source_weights\.scenes: .*greater than 0"):
        parse_params(values, "params.yaml")


def test_entry_of_an_unknown_name() -> None:
    with pytest.raises(ParamsError, match=r"no captioner 'lava', it has llava; did you mean 'llava'\?"):
        entry({"llava": 1}, "captioner", "lava")


def test_missing_file_and_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the project's top folder"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("train: [1")
    with pytest.raises(ParamsError, match="not valid YAML"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes("train: é".encode("latin-1"))
    with pytest.raises(ParamsError, match=r"not valid YAML: 'utf-8' codec"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(ParamsError, match="is a folder: name a file in it"):
        load_params(tmp_path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return Path(shutil.copy(TOP / "params.yaml", tmp_path / "params.yaml"))


@pytest.mark.parametrize("overlay", sorted((TOP / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_overlay_of_the_project_fits(overlay: Path, target: Path) -> None:
    apply_overlays([overlay], [], target)
    assert load_params(target) != load_params(TOP / "params.yaml")


def test_an_overlay_merges_removes_and_keeps_comments(target: Path) -> None:
    apply_overlays([TOP / "conf/url_table.yaml"], ["train.epochs=2"], target)
    params = load_params(target)
    assert list(params.sources) == ["mine"]
    assert list(params.evalsets) == ["held_out"]
    assert params.train.epochs == 2
    assert params.train.learning_rate == load_params(TOP / "params.yaml").train.learning_rate
    assert "# consecutive sub-captions" in target.read_text()


def test_an_overlay_that_is_a_folder_or_no_text_is_named(target: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="conf is a folder: name a file in it"):
        apply_overlays([TOP / "conf"], [], target)
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ParamsError, match=r"mine\.yaml is not valid YAML"):
        apply_overlays([tmp_path / "mine.yaml"], [], target)


def test_only_the_named_entries_of_an_overlay_are_taken(target: Path) -> None:
    apply_overlays([TOP / "conf/evalsets.yaml"], ["evalsets.dci.path=/data/dci"], target, only=["iiw", "dci"])
    params = load_params(target)
    assert list(params.evalsets) == ["long", "short", "classes", "dci", "iiw"]
    assert params.evalsets["dci"].path == Path("/data/dci")
    assert params.validate_.leaks.max_distance == 0  # the training data stay what they are
    with pytest.raises(ParamsError, match=r"--only dcii: the overlays have no such entry, they have coco, dci"):
        apply_overlays([TOP / "conf/evalsets.yaml"], [], target, only=["dcii"])
    with pytest.raises(ParamsError, match=r"--only dci: the overlays have no such entry, they have none\."):
        apply_overlays([], ["train.epochs=2"], target, only=["dci"])


def test_an_empty_merge_changes_no_byte(target: Path) -> None:
    apply_overlays([], ["seed_of_nothing=1"][:0], target)
    assert target.read_text() == (TOP / "params.yaml").read_text()


def test_a_bad_overlay_changes_nothing(target: Path) -> None:
    before = target.read_text()
    for settings in (["train.epoch=2"], ["train.epochs"], ["train.epochs=-1"], ["report.title=[oops"]):
        with pytest.raises(ParamsError):
            apply_overlays([], settings, target)
    with pytest.raises(ParamsError, match="is missing"):
        apply_overlays([target.with_name("none.yaml")], [], target)
    assert target.read_text() == before


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("storage.root", "s3://UPPER/x", "expected s3://bucket/prefix"),
        ("storage.root", "https://bucket/x", "expected s3://bucket/prefix"),
        ("sources.web.path", "s3:///x.tsv", "expected a path, or s3://bucket/key"),
        ("sources.web.path", "http://foo/x.tsv", "expected a path, or s3://bucket/key"),
        ("sources.web.filters", {"punsafe": {"min": 5, "max": 3}}, "nothing is at least 5 and at most 3"),
        ("sources.web.filters", {"punsafe": {"max": 1}, 1: {"max": 1}}, "do one or the other"),
        ("validate.raw.languages", ["english"], "validate.raw.languages"),
    ],
)
def test_values_that_cannot_be_meant(values: Any, dotted: str, value: object, message: str) -> None:
    values["sources"]["web"] = {"kind": "url_table", "path": "web.tsv", "layout": "cc3m"}
    set_at(values, dotted, value)
    with pytest.raises(ParamsError, match=message):
        parse_params(values, "params.yaml")


def test_places_in_s3_stay_text_and_paths_are_paths(values: Any) -> None:
    values["sources"] = {
        name: {"kind": "url_table", "path": path, "layout": "cc3m", "filters": None}
        for name, path in (("here", "data/cc3m.tsv"), ("there", "s3://bucket/cc3m.tsv"))
    }
    sources = parse_params(values, "params.yaml").sources
    assert (sources["here"].path, sources["there"].path) == (Path("data/cc3m.tsv"), "s3://bucket/cc3m.tsv")
    assert sources["here"].model_dump()["filters"] == {}


def test_no_is_a_language_to_the_file_as_to_the_merge(target: Path) -> None:
    apply_overlays([], ["validate.raw.languages=[no, en]"], target)
    assert load_params(target).validate_.raw.languages == ["no", "en"]
