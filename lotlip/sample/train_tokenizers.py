"""Train the sample's vocabularies on its own texts: a BERT WordPiece one for text towers and the Q-Former, and a
byte-level BPE one that the captioners' language models share, as the real ones share Llama's. Seconds.

    python -m lotlip.sample.train_tokenizers [--out lotlip/sample/weights]
"""

import argparse
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lotlip.sample import habits
from lotlip.sample.scenes import make_scene, raw_caption, reference_description, short_captions

VOCABULARY_SEED = 7_000_002
NUM_SCENES = 3000
LONG_PROMPT = "Describe the image in detail"
SHORT_PROMPT = "A short image description"
LLAVA_PROMPT = f"USER: <image>\n{LONG_PROMPT} ASSISTANT:"
SPECIAL = ["<pad>", "<s>", "</s>", "<image>"]


def sample_texts() -> Iterator[str]:
    """Texts of every kind the sample has, from scenes that nothing else uses."""
    for index in range(NUM_SCENES):
        scene = make_scene(VOCABULARY_SEED, index)
        yield raw_caption(scene)
        yield from (habits.llava_caption(scene), habits.instructblip_caption(scene), habits.sharegpt4v_caption(scene))
        yield reference_description(scene)
        yield from short_captions(scene)
    yield from (LONG_PROMPT, SHORT_PROMPT)


def train_wordpiece() -> Tokenizer:
    """BERT's uncased WordPiece; letters and digits alone and as continuations, so any ASCII word is spelt."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=460,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        initial_alphabet=list(string.ascii_lowercase + string.digits + string.punctuation),
        show_progress=False,
    )
    spelling = [letter * 2 for letter in string.ascii_lowercase + string.digits]
    tokenizer.train_from_iterator([*sample_texts(), *spelling], trainer)
    return tokenizer


def train_bpe() -> Any:
    """The captioners' byte-level BPE: any text is spelt, and every common word of their captions is one token.

    It pads on the left, as generation needs it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    scenes = [make_scene(VOCABULARY_SEED, index) for index in range(NUM_SCENES)]
    texts = [write(scene) for write in habits.ALL for scene in scenes]
    tokenizer.train_from_iterator([f" {text}" for text in [*texts, LLAVA_PROMPT, SHORT_PROMPT]], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def wrap(tokenizer: Tokenizer) -> Any:
    """A WordPiece vocabulary as transformers saves and opens it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("lotlip/sample/weights"))
    out = parser.parse_args().out
    tokenizer = wrap(train_wordpiece())
    tokenizer.save_pretrained(out / "tokenizer")
    print(f"{out / 'tokenizer'}: {len(tokenizer)} WordPiece tokens")


if __name__ == "__main__":
    main()
