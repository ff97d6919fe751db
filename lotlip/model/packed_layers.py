"""Layers of transformers' BERT and CLIP on packed rows: the same weights under the same names, another forward.

They are modules that are called as such, so what hangs on a module's call works: gradient checkpointing, sharding
(FSDP2) and torch.compile of a layer.

Shapes: T rows (tokens of all texts), Q rows that are read, H width of the tower.
"""

from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertLayer
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from lotlip.model.packing import Attention


class PackedBertLayer(BertLayer):  # type: ignore[misc]
    """A layer of `BertModel`."""

    def forward(self, states_TH: Tensor, attend: Attention, read: Tensor | None) -> Tensor:
        """States [Q, H] after the layer, of the rows `read` (None: all)."""
        own = self.attention.self
        rows = states_TH if read is None else states_TH[read]
        context = attend(own.query(rows), own.key(states_TH), own.value(states_TH), read)
        output: Tensor = self.feed_forward_chunk(self.attention.output(context, rows))
        return output


class PackedClipLayer(CLIPEncoderLayer):  # type: ignore[misc]
    """A layer of `CLIPTextModel`."""

    def forward(self, states_TH: Tensor, attend: Attention, read: Tensor | None) -> Tensor:
        """As `PackedBertLayer.forward`."""
        own, normed = self.self_attn, self.layer_norm1(states_TH)
        rows, residual = (normed, states_TH) if read is None else (normed[read], states_TH[read])
        attended = own.out_proj(attend(own.q_proj(rows), own.k_proj(normed), own.v_proj(normed), read))
        states: Tensor = residual + attended
        output: Tensor = states + self.mlp(self.layer_norm2(states))
        return output


def run_packed(layers: Any, kind: type[nn.Module]) -> None:
    """Give layers the forward of `kind`, a subclass of theirs; weights, names and draws of fresh weights stay."""
    for layer in layers:
        layer.__class__ = kind


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The transformer layers of all towers in a model, image towers' included."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
