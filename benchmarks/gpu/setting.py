"""What the scripts for GPUs share: their arguments, the model at its real and at a tiny size, and training settings."""

import argparse
import sys
from pathlib import Path

import torch
from transformers import BertConfig, CLIPTextConfig, ViTConfig

from benchmarks.texts import CORNERS, END, LIMIT, START, VOCABULARY
from benchmarks.timing import RESULTS
from lotlip.errors import ParamsError
from lotlip.model.config import LotlipConfig
from lotlip.model.devices import open_device
from lotlip.params import Compute, Train, load_params

NO_GPU = 2  # exit status
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments of all scripts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few texts, to try the script out")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    return parser


def device_of(name: str) -> torch.device:
    """The device asked for; without it the script ends with status 2."""
    try:
        device = open_device(name)
    except ParamsError as error:
        print(
            f"error: this is for a GPU. {error} With --device cpu --tiny the script tries itself out.", file=sys.stderr
        )
        sys.exit(NO_GPU)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def make_config(
    *, tiny: bool, kind: str = "bert", corners: int = CORNERS, corner_mask: bool = True, token_features: bool = False
) -> LotlipConfig:
    """ViT-B/16 with BERT-base, or with a causal tower of its size, without dropout; or tiny ones."""
    shape = dict(TINY) if tiny else {}
    text = BertConfig(
        vocab_size=VOCABULARY + corners, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **shape
    )
    if kind == "causal":
        size = shape or {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
        text = CLIPTextConfig(
            vocab_size=VOCABULARY, max_position_embeddings=LIMIT, bos_token_id=START, eos_token_id=END, pad_token_id=0,
            **size,
        )  # fmt: skip
    return LotlipConfig(
        text_config=text,
        vision_config=ViTConfig(**shape, **({"image_size": 32, "patch_size": 16} if tiny else {})),
        embed_dim=TINY["hidden_size"] if tiny else 768,
        num_corner_tokens=corners,
        corner_mask=corner_mask,
        token_limit=LIMIT,
        token_features=token_features,
    )


def train_settings(device: torch.device, *, deterministic: bool = False, **compute: object) -> Train:
    """Those of params.yaml on one device in bfloat16, as given in its place."""
    train = load_params().train
    fields = {
        "processes": 1,
        "precision": "bfloat16",
        "micro_batch_size": None,
        "deterministic": deterministic,
        **compute,
    }
    changed = Compute.model_validate({**train.compute.model_dump(), **fields})
    return train.model_copy(update={"device": str(device), "compute": changed})
