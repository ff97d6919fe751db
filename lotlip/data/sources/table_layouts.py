"""The columns of published tables of images and captions, as they lie on their owners' sites."""

from dataclasses import dataclass

from lotlip.data.sources.table_files import Wanted


@dataclass(frozen=True)
class Layout:
    """Where URLs and raw captions are: a number (no header), a name, or the names of different releases."""

    url: Wanted
    caption: Wanted | None = None


LAYOUTS = {
    # Train_GCC-training.tsv, no header. Source: img2dataset, dataset_examples/cc3m.md.
    "cc3m": Layout(url=1, caption=0),
    # cc12m.tsv, no header. Source: img2dataset, dataset_examples/cc12m.md.
    "cc12m": Layout(url=0, caption=1),
    # Two different subsets go by this name (DeCLIP issue 28). yfcc15m_clean_open_data.json, an object a line: caption,
    # filename, url (DeCLIP issue 13); yfcc15m.csv of OpenAI's subset, YFCC100M's own columns: downloadurl, title,
    # description, usertags, ... (dalle-mini/YFCC100M_OpenAI_subset, its README).
    "yfcc15m": Layout(url=("url", "downloadurl"), caption=("caption", "title")),
    # Parquet parts: URL, TEXT, WIDTH, HEIGHT, similarity, hash, LANGUAGE or NSFW, and in the joined releases punsafe,
    # pwatermark (img2dataset, dataset_examples/laion5B.md and laion400m.md; cards of laion2B-en derivatives);
    # relaion2B-en-research-safe has url and caption.
    "laion": Layout(url=("URL", "url"), caption=("TEXT", "caption")),
    # Parquet parts: id, url, text, width, height, image_phash, text_length, word_count, num_tokens_bert,
    # num_tokens_gpt, num_faces, clip_similarity_vitb32, clip_similarity_vitl14, nsfw_score_opennsfw2,
    # nsfw_score_gantman, watermark_score, aesthetic_score_laion_v2. Source: card of kakaobrain/coyo-700m.
    "coyo": Layout(url="url", caption="text"),
    # <set>_3long_3short_1raw_captions_url.csv: Image Path (a URL), raw_caption, shortIB_captions, longIB_captions,
    # shortSV_captions, longSV_captions, shortLLA_captions, longLLA_captions. Source: METHOD.md, "The three captioners".
    "dreamlip": Layout(url="Image Path", caption="raw_caption"),
    # <set>_3long_captions.csv of Recap-Long-Laion and -Coyo: its card names no columns. These are the usual ones of the
    # URL; an error lists what is there.
    "recap_long": Layout(url=("Image Path", "url", "URL")),
}
