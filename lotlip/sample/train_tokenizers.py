"""Train the sample's two vocabularies on its own texts: a BERT WordPiece one for the text tower and a byte-level
BPE one for the captioner's language model. Seconds.

    python -m lotlip.sample.train_tokenizers [--out lotlip/sample/weights]
"""

import argparse
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lotlip.sample.scenes import long_caption, make_scene, raw_caption, reference_description, short_captions

VOCABULARY_SEED = 7_000_002
NUM_SCENES = 3000
PROMPT = "USER: <image>\nDescribe the image in detail ASSISTANT:"
LLAVA_SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]


def sample_texts() -> Iterator[str]:
    """Texts of every kind the sample has, from scenes that nothing else uses."""
    for index in range(NUM_SCENES):
        scene = make_scene(VOCABULARY_SEED, index)
        yield raw_caption(scene)
        yield long_caption(scene)
        yield reference_description(scene)
        yield from short_captions(scene)


def train_wordpiece() -> Tokenizer:
    """BERT's uncased WordPiece; letters and digits alone and as continuations, so any ASCII word is spelt."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=420,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        initial_alphabet=list(string.ascii_lowercase + string.digits + string.punctuation),
        show_progress=False,
    )
    spelling = [letter * 2 for letter in string.ascii_lowercase + string.digits]
    tokenizer.train_from_iterator([*sample_texts(), *spelling], trainer)
    return tokenizer


def train_bpe() -> Tokenizer:
    """Byte-level BPE: any text is spelt, and every common word of the captions is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=LLAVA_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [long_caption(make_scene(VOCABULARY_SEED, index)) for index in range(NUM_SCENES)]
    tokenizer.train_from_iterator([" " + text for text in [*texts, PROMPT]], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", LLAVA_SPECIAL.index("<s>"))]
    )
    return tokenizer


def wrap(tokenizer: Tokenizer, **special: Any) -> Any:
    """The tokenizer as transformers saves and opens it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def captioner_tokenizer() -> Any:
    """The language model's tokenizer, padding on the left as generation needs it."""
    return wrap(
        train_bpe(),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lotlip/sample/weights"))
    out = parser.parse_args().out
    tokenizer = wrap(
        train_wordpiece(),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    tokenizer.save_pretrained(out / "tokenizer")
    print(f"{out / 'tokenizer'}: {len(tokenizer)} WordPiece tokens; the captioner's has {len(captioner_tokenizer())}")


if __name__ == "__main__":
    main()
