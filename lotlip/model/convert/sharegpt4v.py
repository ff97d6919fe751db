"""ShareGPT4V's released weights as a `LlavaForConditionalGeneration` folder.

The release has two parts: a folder with language model and projector, and a folder with the vision tower that was
tuned with them. The stock CLIP tower would be wrong: its features are not those that the projector learned to read.

Source: ShareGPT4V, arXiv:2311.12793; key names of METHOD.md, mapped to those of the installed transformers.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lotlip.errors import ModelError
from lotlip.records import publish_folder, read_json
from lotlip.weights import State, load_all, read_state

PROJECTOR = {"0": "linear_1", "2": "linear_2"}
IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
_NUM_NEW = 2  # the two tokens, appended to the vocabulary
_TEXT_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
)


def convert_sharegpt4v(llm: Path, tower: Path, out: Path, dtype: str = "float16") -> dict[str, Any]:
    """Join language model, projector and tuned tower into one folder for `from_pretrained`.

    Args:
        llm: folder of the language model with `model.mm_projector.*`: config.json, weights and tokenizer.
        tower: folder of the tuned CLIP vision tower: config.json and weights.
        out: new folder.
        dtype: of the written weights.

    Returns:
        What was found and written.

    Raises:
        ModelError: a file is missing or is something else, keys are missing or unknown (all are listed), or the parts
            do not fit each other.
    """
    if out.exists():
        raise ModelError(f"{out} is there already: name a new folder.")
    settings, vision = _config(llm), _config(tower)
    vision = vision.get("vision_config", vision)
    _check_parts(settings, vision, llm, tower)
    tokenizer = _open_tokenizer(llm, settings["vocab_size"])
    config = _llava_config(settings, vision)
    model = _build(config)
    state = _rename_llm(read_state(llm)) | _rename_tower(read_state(tower))
    load_all(model, _with_new_tokens(state), "ShareGPT4V (language model and projector, and tuned tower)")
    with publish_folder(out) as staging:
        model.to(getattr(torch, dtype)).save_pretrained(staging)
        _processor(tokenizer, settings, vision).save_pretrained(staging)
    return {
        "language_model": f"{settings['num_hidden_layers']} layers x {settings['hidden_size']}",
        "tower": f"{vision['num_hidden_layers']} layers x {vision['hidden_size']}, {vision['image_size']} px",
        "feature_layer": config.vision_feature_layer,
        "image_token": f"{IMAGE_TOKEN} = {config.image_token_index}",
        "pad_token": f"{PAD_TOKEN} = {config.text_config.pad_token_id}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "folder": str(out),
    }


def _config(folder: Path) -> dict[str, Any]:
    record = read_json(folder / "config.json")
    if not isinstance(record, dict):
        raise ModelError(f"{folder}/config.json holds a {type(record).__name__}; expected an object.")
    return record


def _check_parts(settings: dict[str, Any], vision: dict[str, Any], llm: Path, tower: Path) -> None:
    kind = settings.get("mm_projector_type")
    if kind != "mlp2x_gelu":
        raise ModelError(
            f"{llm}/config.json has mm_projector_type {kind!r}; expected 'mlp2x_gelu', ShareGPT4V's: is this the "
            "folder of its language model?"
        )
    if "patch_size" not in vision or "hidden_size" not in vision:
        raise ModelError(f"{tower}/config.json is not that of a CLIP vision tower (no patch_size, hidden_size).")
    if settings["mm_hidden_size"] != vision["hidden_size"]:
        raise ModelError(
            f"The projector reads features of {settings['mm_hidden_size']} and the tower gives "
            f"{vision['hidden_size']}: {llm} and {tower} do not belong together."
        )


def _open_tokenizer(folder: Path, vocab_size: int) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} has no tokenizer that can be opened ({error}): put its files there.") from error
    if len(tokenizer) != vocab_size:
        raise ModelError(f"The tokenizer of {folder} has {len(tokenizer)} tokens, its language model {vocab_size}.")
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.padding_side = "left"
    found = [tokenizer.convert_tokens_to_ids(token) for token in (IMAGE_TOKEN, PAD_TOKEN)]
    if found != [vocab_size, vocab_size + 1]:
        raise ModelError(
            f"{IMAGE_TOKEN} and {PAD_TOKEN} have ids {found} in the tokenizer of {folder}; expected {vocab_size} and "
            f"{vocab_size + 1}, after its own tokens."
        )
    return tokenizer


def _llava_config(settings: dict[str, Any], vision: dict[str, Any]) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vocab_size = settings["vocab_size"]
    text = {name: settings[name] for name in _TEXT_KEYS if name in settings}
    text |= {"vocab_size": vocab_size + _NUM_NEW, "pad_token_id": vocab_size + 1, "tie_word_embeddings": False}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**{k: v for k, v in vision.items() if k != "model_type"}),
        text_config=LlamaConfig(**text),
        image_token_index=vocab_size,
        image_seq_length=(vision["image_size"] // vision["patch_size"]) ** 2,
        projector_hidden_act="gelu",
        vision_feature_layer=settings.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default",  # patches alone, the class token dropped
    )


def _build(config: Any) -> Any:
    from transformers import GenerationConfig, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration(config)
    text = config.text_config
    model.generation_config = GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
    )
    return model


def _rename_llm(state: State) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        if name.endswith("rotary_emb.inv_freq"):  # a buffer, computed anew
            continue
        if name.startswith("model.mm_projector."):
            layer, _, kind = name.removeprefix("model.mm_projector.").partition(".")
            renamed[f"model.multi_modal_projector.{PROJECTOR.get(layer, layer)}.{kind}"] = tensor
        elif name.startswith("model."):
            renamed[f"model.language_model.{name.removeprefix('model.')}"] = tensor
        else:
            renamed[name] = tensor
    return renamed


def _rename_tower(state: State) -> State:
    return {
        f"model.vision_tower.{name.removeprefix('vision_model.')}": tensor
        for name, tensor in state.items()
        if not name.endswith("position_ids")  # a buffer, 0 to n - 1
    }


def _with_new_tokens(state: State) -> State:
    """Rows for the two tokens, the mean of all others: no image is read from the one, nothing from the other."""
    names = [name for name in ("model.language_model.embed_tokens.weight", "lm_head.weight") if name in state]
    return {**state, **{name: _append_mean(state[name]) for name in names}}


def _append_mean(rows: Tensor) -> Tensor:
    wide = rows.float()
    return torch.cat([wide, wide.mean(dim=0, keepdim=True).expand(_NUM_NEW, -1)])


def _processor(tokenizer: Any, settings: dict[str, Any], vision: dict[str, Any]) -> Any:
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    size = vision["image_size"]
    image_processor = LlavaImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_pad=settings.get("image_aspect_ratio") == "pad",
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=vision["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
    )
