"""The section of the report page about what the captioners wrote, and the statistics of all texts."""

from typing import Any

from lotlip.evaluation.html_parts import Markup, cell, note, percent, section, table
from lotlip.evaluation.results import Results
from lotlip.evaluation.text_statistics import measured_statistics, published_statistics


def captions_section(results: Results) -> Markup:
    """What the captioners wrote, measured by itself, by each other, and against the images."""
    quality = results.quality
    found = quality["captioners"]
    columns = {
        "texts": "texts",
        "tokens": "tokens",
        "sub_captions": "sub-captions",
        "objects": "objects named",
        "unsupported": "named by no other",
        "coverage": "of common objects",
        "similarity": "similarity",
        "similarity_of_next": "with another image",
        "truncated": "cut off",
        "duplicates": "repeats",
    }
    shares = {"unsupported", "coverage", "truncated", "duplicates"}
    rules = sorted({rule for one in found.values() for rule in one["reasons"]})
    rows = []
    for name, one in found.items():
        values = [percent(one[key]) if key in shares else _rounded(one[key]) for key in columns]
        rows.append([name, *values, *(percent(one["reasons"].get(rule, 0.0)) for rule in rules)])
    pairs = [[pair.replace("-", " and "), percent(value)] for pair, value in quality["agreement"].items()]
    agreement = [
        "<h3>Agreement</h3>",
        table(["captioners", "objects in common"], pairs),
        note("Jaccard index of the objects that two captioners name in an image, mean over images."),
    ]
    return section(
        "captions",
        "Captions",
        table(["captioner", *columns.values(), *rules], rows),
        note(
            f"On {quality['images']:,} images. Named by no other: the share of the objects named that no other "
            "captioner names in the same image, which may not be there. Of common objects: of those that most "
            "captioners name, the share that this one names. Similarity: mean cosine of image and sub-captions under "
            f"<code>{cell(results.params.quality.similarity.checkpoint)}</code>."
        ),
        *(agreement if pairs else []),
        "<h3>Statistics, beside the published ones</h3>",
        _statistics(results),
        note("Sub-captions: pieces between full stops and line ends. Tokens: of the tokenizer in validate.tokenizer."),
    )


def _statistics(results: Results) -> Markup:
    ours = measured_statistics(results.quality, results.evalset)
    rows = []
    for one in [*ours, *published_statistics()]:
        values = (one.images, one.texts, one.sub_captions, one.tokens)
        rows.append([one.source, one.texts_of, *map(_rounded, values)])
    marks = dict.fromkeys(range(len(ours), len(rows)), "reference")
    header = ["source", "texts of", "images", "texts", "sub-captions a text", "tokens a text"]
    return table(header, rows, marks, text_columns=[1])


def _rounded(value: float | None) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value
