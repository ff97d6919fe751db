"""The small parts: schedule, decay groups, a step, callbacks, model building."""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from lotlip.errors import ModelError, ParamsError
from lotlip.model.build import build_model
from lotlip.model.devices import open_device
from lotlip.training.callbacks import ConsoleProgress, EventLog
from lotlip.training.meter import Meter
from lotlip.training.optim import learning_rate, make_optimizer, num_steps, warmup_steps
from lotlip.training.parallel import Network
from lotlip.training.ranks import Ranks
from lotlip.training.step import Batch, StepResult, clip_gradients, train_step
from tests.training.tiny_training import LIT, LOTLIP, WORDS, Project


def test_the_schedule_by_hand() -> None:
    rates = [learning_rate(step, 10, peak=2.0, warmup=2) for step in range(10)]
    assert rates[:3] == pytest.approx([1.0, 2.0, 2.0])
    assert rates[6] == pytest.approx(1.0), "half the cosine"
    assert rates[9] == pytest.approx(1 + math.cos(math.pi * 7 / 8))
    assert learning_rate(0, 10, peak=2.0, warmup=0) == 2.0


def test_length_and_warm_up_by_epochs_steps_and_samples(project: Project) -> None:
    def lengths(**changes: object) -> tuple[int, int]:
        settings = project.settings(batch_size=16, **{"epochs": None, "warmup_share": None, **changes})
        steps = num_steps(settings, batches_per_epoch=7)
        return steps, warmup_steps(settings, steps)

    assert lengths(epochs=3, warmup_share=0.1) == (21, 2)
    assert lengths(steps=50, warmup_steps=4) == (50, 4)
    assert lengths(samples=335, warmup_samples=40) == (20, 2)
    assert lengths(samples=3, warmup_steps=0) == (1, 0)


def test_only_matrices_decay(project: Project) -> None:
    model = build_model(project.settings(), LOTLIP.model_copy(update={"image_tower": "unlocked"})).model
    groups = make_optimizer(model, 0.1).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, others = sorted(groups, key=lambda group: -group["weight_decay"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    plain = {names[id(parameter)] for parameter in others["params"]}
    assert {"logit_scale", "image_tower.embeddings.cls_token"} <= plain
    kinds = ("bias", "logit_scale", "cls_token", "LayerNorm.weight")
    assert all(name.endswith(kinds) or "norm" in name for name in plain)
    assert len(decayed["params"]) + len(plain) == len(names)


def test_the_optimizer_starts_with_the_state_of_no_step() -> None:
    layer = torch.nn.Linear(3, 2)
    weight, inputs = layer.weight.detach().clone(), torch.ones(1, 3)
    ours, plain = make_optimizer(layer, 0.1), torch.nn.Linear(3, 2)
    plain.load_state_dict(layer.state_dict())
    groups = [{"params": [plain.weight], "weight_decay": 0.1}, {"params": [plain.bias], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)
    assert torch.equal(layer.weight, weight)
    for model, optimizer in ((layer, ours), (plain, theirs)):
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    assert torch.equal(layer.weight, plain.weight)
    assert torch.equal(layer.bias, plain.bias)


def test_a_step_that_is_not_finite_changes_nothing(project: Project) -> None:
    torch.manual_seed(0)
    settings, alone = project.settings(), Ranks(0, 1, torch.device("cpu"))
    parts = build_model(settings, LOTLIP)
    network = Network(parts.model, settings.compute, alone)
    optimizer = make_optimizer(parts.model, 0.1)
    texts = parts.tokenizer([" ".join(WORDS[i : i + 3]) for i in range(8)])
    ids, mask = (torch.from_numpy(texts[name]).view(4, 2, -1) for name in ("input_ids", "attention_mask"))
    before = {name: p.clone() for name, p in parts.model.named_parameters()}

    def step(images: torch.Tensor) -> StepResult:
        batch = Batch(ids, mask, images, mask.sum(dim=-1).numpy(), precomputed=True)
        return train_step(network, optimizer, batch, settings, LOTLIP, 1e-2, alone, torch.manual_seed)

    images = torch.randn(4, 16)
    images[2, 3] = float("nan")
    assert step(images).skipped
    assert all(torch.equal(p, before[name]) for name, p in parts.model.named_parameters())
    assert not step(torch.randn(4, 16)).skipped
    assert any(not torch.equal(p, before[name]) for name, p in parts.model.named_parameters())


def test_clipping_scales_all_groups_by_one_norm(project: Project) -> None:
    settings = project.settings(grad_clip=1e-3)
    parts = build_model(settings, LOTLIP)
    optimizer = make_optimizer(parts.model, 0.1)
    for parameter in parts.model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5) if parameter.requires_grad else None
    grads = [p.grad for p in parts.model.parameters() if p.grad is not None]
    expected = 0.5 * math.sqrt(sum(grad.numel() for grad in grads))
    assert clip_gradients(optimizer, settings.grad_clip).item() == pytest.approx(expected)
    assert torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])).item() == pytest.approx(1e-3, rel=1e-4)


def test_what_is_measured_adds_up() -> None:
    meter = Meter(peak_flops=1e12)
    started = time.monotonic()
    for _ in range(4):
        meter.add(pairs=10, tokens=70, flops=1e9, waited_s=0.01)
    time.sleep(0.1)
    found = meter.read(Ranks(0, 1, torch.device("cpu")))
    elapsed = time.monotonic() - started
    assert 40 / elapsed <= found["pairs_per_s"] <= 40 / 0.1
    assert found["tokens_per_s"] == pytest.approx(7 * found["pairs_per_s"], rel=1e-3)
    assert found["data_wait_share"] == pytest.approx(0.001 * found["pairs_per_s"], rel=1e-3)
    assert found["flop_utilisation"] == pytest.approx(1e8 * found["pairs_per_s"] / 1e12, rel=1e-3)
    assert 0.1 < found["memory_gb"] < 20
    again = meter.read(Ranks(0, 1, torch.device("cpu")))
    assert (again["pairs_per_s"], again["data_wait_share"]) == (0, 0)
    assert "flop_utilisation" not in Meter(None).read(Ranks(0, 1, torch.device("cpu")))


def test_events_are_appended_and_not_repeated_on_resuming(tmp_path: Path) -> None:
    path = tmp_path / "events/lotlip.jsonl"
    log = EventLog(path)
    log.on_start(0, 4)
    for step in (1, 2, 3):
        log.on_log(step, {"loss": 4.0 - step})
    with path.open("a") as file:
        file.write('{"step": 4, "ti')  # killed while writing
    log.on_start(2, 4)
    log.on_log(3, {"loss": 0.5})
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(event["step"], event["metrics"]) for event in events] == [
        (1, {"loss": 3.0}),
        (2, {"loss": 2.0}),
        (3, {"loss": 0.5}),
    ]
    assert all(event["time_s"] > 1e9 for event in events)


def test_progress_lines(capsys: pytest.CaptureFixture[str]) -> None:
    progress = ConsoleProgress("train lit", every_s=0.0)
    progress.on_start(5, 10)
    progress.on_log(6, {"epoch": 2, "loss": 1.23456, "pairs_per_s": 1234.5, "data_wait_share": 0.034})
    progress.on_warning(7, "loss 9.000 is far above")
    progress.on_end({"loss": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train lit: 10 steps, resuming after step 5"
    assert lines[1].startswith(
        "train lit: step 6/10, epoch 2, loss 1.235, 1234 pairs/s, waits for data 3% of the time,"
    )
    assert lines[2] == "train lit: warning at step 7: loss 9.000 is far above"
    assert lines[3] == "train lit: done, loss 1.000"


def test_a_pretrained_text_tower_is_kept_and_gets_new_corners(project: Project) -> None:
    plain = BertConfig(
        vocab_size=5 + len(WORDS) + 1,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    bert = BertModel(plain)
    bert.save_pretrained(project.folder / "bert")
    settings = project.settings(text_tower=str(project.folder / "bert"), text_dropout=0.25)
    model = build_model(settings, LOTLIP).model
    words = model.get_input_embeddings().weight
    assert torch.equal(words[:-2], bert.embeddings.word_embeddings.weight)
    assert words[-2:].std().item() == pytest.approx(0.02, rel=0.5)
    assert torch.equal(model.text_tower.bert.pooler.dense.weight, bert.pooler.dense.weight)
    assert model.text_tower.bert.embeddings.dropout.p == 0.25
    project.train(LOTLIP, epochs=1, text_tower=str(project.folder / "bert"))


def test_new_models_start_from_the_same_towers_and_the_usual_logit_scale(project: Project) -> None:
    for method in (LIT, LOTLIP):
        model = build_model(project.settings(), method).model
        assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-5)
        assert not any(p.requires_grad for p in model.image_tower.parameters())
        assert model.config.text_config.attention_probs_dropout_prob == 0.0


def test_what_does_not_fit_is_refused(project: Project) -> None:
    cases = [
        ({"image_tower": "no/such/folder"}, ModelError, "image tower no/such/folder is not a folder here"),
        ({"tokenizer": "no/such"}, ModelError, "Tokenizer no/such is not a folder here"),
        ({"text_tower": "bert-base-uncased"}, ModelError, "together with its revision"),
        ({"image_tower": str(project.folder / "tokenizer")}, ModelError, "cannot be opened"),
        ({"embed_dim": 32}, ModelError, "image tower is 16 wide and embed_dim is 32"),
        ({"text_heads": 3}, ParamsError, "not a multiple of text_heads 3"),
        ({"token_limit": 4}, ParamsError, "token_limit is 4"),
    ]
    for changes, error, message in cases:
        with pytest.raises(error, match=message):
            build_model(project.settings(**changes), LOTLIP)
    with pytest.raises(ParamsError, match="expected auto, cpu"):
        open_device("abacus")
    with pytest.raises(ParamsError, match="GPUs here"):
        open_device("cuda:99")
