"""Layers of transformers' BERT and CLIP on packed rows: the same weights under the same names, another forward.

They are modules that are called as such, so what hangs on a module's call works: gradient checkpointing and sharding
(FSDP2). Their dense parts, before and after attention, are a whole graph each to torch.compile; attention depends on
lengths and stays outside.

Shapes: T rows (tokens of all texts), Q rows that are read, H width of the tower.
"""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from lotlip.model.packing import Attention

Projected = tuple[Tensor, Tensor, Tensor, Tensor]


class PackedLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """What both kinds share."""

    def forward(self, states_TH: Tensor, attend: Attention, read: Tensor | None) -> Tensor:
        """States [Q, H] after the layer, of the rows `read` (None: all)."""
        rows_QH, query, key, value = self.project(states_TH, read)
        return self.finish(rows_QH, attend(query, key, value, read))

    @abstractmethod
    def project(self, states_TH: Tensor, read: Tensor | None) -> Projected:
        """The rows that are read and their queries [Q, H], keys and values of all rows [T, H]."""

    @abstractmethod
    def finish(self, rows_QH: Tensor, context_QH: Tensor) -> Tensor:
        """All that follows attention, [Q, H]."""


class PackedBertLayer(PackedLayer, BertLayer):  # type: ignore[misc]
    """A layer of `BertModel`."""

    def project(self, states_TH: Tensor, read: Tensor | None) -> Projected:
        own = self.attention.self
        rows_QH = states_TH if read is None else states_TH[read]
        return rows_QH, own.query(rows_QH), own.key(states_TH), own.value(states_TH)

    def finish(self, rows_QH: Tensor, context_QH: Tensor) -> Tensor:
        output: Tensor = self.feed_forward_chunk(self.attention.output(context_QH, rows_QH))
        return output


class PackedClipLayer(PackedLayer, CLIPEncoderLayer):  # type: ignore[misc]
    """A layer of `CLIPTextModel`."""

    def project(self, states_TH: Tensor, read: Tensor | None) -> Projected:
        own, normed = self.self_attn, self.layer_norm1(states_TH)
        rows_QH, residual_QH = (normed, states_TH) if read is None else (normed[read], states_TH[read])
        return residual_QH, own.q_proj(rows_QH), own.k_proj(normed), own.v_proj(normed)

    def finish(self, rows_QH: Tensor, context_QH: Tensor) -> Tensor:
        states_QH: Tensor = rows_QH + self.self_attn.out_proj(context_QH)
        output: Tensor = states_QH + self.mlp(self.layer_norm2(states_QH))
        return output


def run_packed(layers: Any, kind: type[PackedLayer]) -> None:
    """Give layers the forward of `kind`, a subclass of theirs; weights, names and draws of fresh weights stay."""
    for layer in layers:
        layer.__class__ = kind


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The transformer layers of all towers in a model, image towers' included."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
