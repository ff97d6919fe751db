"""Compiled layers against the plain ones, over batches of many lengths; and how often they are compiled."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from lotlip.model.modeling import LotlipModel
from lotlip.training.compiled import compile_layers
from tests.model.test_packed_layers import make_config
from tests.model.tiny_parts import make_ids


@pytest.fixture
def compiled() -> LotlipModel:
    """Two layers a tower; no dropout, of which compiled code draws other numbers."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(0)
    config = make_config("bert")
    config.text_config.hidden_dropout_prob = config.text_config.attention_probs_dropout_prob = 0.0
    config.vision_config.hidden_dropout_prob = 0.0
    config.text_config.num_hidden_layers = config.vision_config.num_hidden_layers = 2
    model = LotlipModel(config).train()
    with torch.no_grad():  # large random weights, so that gradients are
        for parameter in [*model.text_tower.parameters(), *model.image_tower.parameters()]:
            parameter += 0.2 * torch.randn_like(parameter)
    return model


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Four images, a raw and two long texts each."""
    generator = torch.Generator().manual_seed(number)
    texts = [make_ids(torch.randint(0, 12, (4,), generator=generator).tolist(), 2, width=16) for _ in range(3)]
    return torch.stack(texts, dim=1), torch.rand(4, 3, 16, 16, generator=generator)


def run(model: LotlipModel, number: int) -> tuple[Tensor, Tensor]:
    """Loss, and all gradients in a row."""
    model.zero_grad()
    ids, pixels = batch(number)
    output = model(ids, pixel_values=pixels)
    scores = output.logit_scale * torch.einsum("id,jkd->kij", output.image_embeds, output.text_embeds)
    loss = scores.logsumexp(dim=-1).mean() - scores.diagonal(dim1=1, dim2=2).mean()
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_losses_and_gradients_stay_and_new_lengths_compile_nothing(compiled: LotlipModel) -> None:
    expected, names = [run(compiled, i) for i in range(8)], list(compiled.state_dict())
    compile_layers(compiled)
    graphs = []
    for i, (loss, gradient) in enumerate(expected):
        if i == 5:
            compiled.activation_checkpointing_enable()  # which turns to the same compiled parts
        found_loss, found = run(compiled, i)
        torch.testing.assert_close(found_loss, loss, atol=1e-5, rtol=1e-5)
        assert (found - gradient).norm() < 1e-5 * gradient.norm()
        graphs.append(counters["stats"]["unique_graphs"])
    # Text layers: before attention for all rows and for those that are read, and after it. An image layer, with
    # checkpoints once more.
    assert graphs == [4] * 5 + [5] * 3
    assert not counters["graph_break"]
    assert list(compiled.state_dict()) == names
