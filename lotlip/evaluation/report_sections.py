"""The sections of the report page, each from the stages' reports."""

from math import log
from typing import Any

from lotlip.evaluation.html_parts import Markup, cell, note, percent, picture, section, table
from lotlip.evaluation.losses_of_data import data_losses
from lotlip.evaluation.plots import method_colours
from lotlip.evaluation.results import Report, Results
from lotlip.evaluation.tables import CHANCE, ELSEWHERE, Table, half_interval

_NOTABLE_SHARE = 0.05  # losses above it are marked


def comparison_section(results: Results, compared: Table, chart: bytes) -> Markup:
    """Headline table, its bar chart (a PNG), and every metric behind a fold."""
    images = {name: report["num_images"] for name, report in results.evalset.items()}
    noise = ", ".join(f"{name} ±{half_interval(count):.1f}" for name, count in images.items())
    return section(
        "comparison",
        "Comparison of models",
        note(
            "Percent of queries answered right at first place: I2T finds a text of an image among all texts, "
            "T2I the image of a text among all images, top-1 the class. A tie counts against the model. Best "
            "values are bold."
        ),
        _values(compared.headline()),
        note(ELSEWHERE) if compared.foreign else "",
        note(
            f"95% interval of a single value, at its widest, in points: {noise}. One training run a method: "
            "smaller differences may be chance."
        ),
        picture(chart, "Bar chart of the table above"),
        "<details><summary>All metrics</summary>",
        _values(compared),
        _ranks(results),
        "</details>",
    )


def training_section(results: Results, chart: bytes) -> Markup:
    """Curves (a PNG), and what each run saw and ended at."""
    columns = {
        "loss": "loss",
        "loss_raw": "raw captions",
        "loss_long": "long texts",
        "logit_scale": "logit scale",
        "num_samples": "samples",
        "epochs": "epochs",
        "steps": "steps",
        "texts_seen": "texts seen",
        "trained_parameters": "trained parameters",
    }
    rows = [[_method(results, name), *(report.get(key) for key in columns)] for name, report in results.train.items()]
    batch = results.params.train.batch_size
    return section(
        "training",
        "Training",
        picture(chart, "Training curves"),
        table(["method", *columns.values()], rows),
        note(
            "Losses are means over the last epoch, in nats; they compare only between equal kinds of text. "
            f"Guessing among the {batch} pairs of a batch gives ln {batch} = {log(batch):.2f}."
        ),
    )


def data_section(results: Results) -> Markup:
    """Images, captions, validation and evaluation sets."""
    return section(
        "data",
        "Data",
        verdict_box(results.validate),
        "<h3>Images</h3>",
        table(
            ["source", "requested", "fetched", "failed", "share failed", "shards", "MB"],
            [
                [
                    name,
                    report["requested"],
                    report["success"],
                    report["requested"] - report["success"],
                    percent(report["failed_share"]),
                    report["shards"],
                    f"{report['bytes'] / 1e6:,.1f}",
                ]
                for name, report in results.download.items()
            ],
        ),
        "<h3>Texts</h3>",
        _texts(results),
        note(
            "Raw-word recall: the share of a raw caption's content words that the long text repeats. Near 0, "
            "the captioner describes something else than the images."
        ),
        "<h3>Losses of data</h3>",
        _losses(results),
        "<h3>Evaluation sets</h3>",
        _evalsets(results),
    )


def settings_section(results: Results) -> Markup:
    """Every setting the results depend on."""
    params = results.params
    methods = {name: method.model_dump() for name, method in params.methods.items()}
    keys = list(next(iter(methods.values())))
    rows = [[_method(results, name), *(values[key] for key in keys)] for name, values in methods.items()]
    groups: dict[str, Any] = {
        "train": params.train,
        "download": params.download,
        "validate": params.validate_,
        "quality": params.quality,
    }
    groups |= {f"captioners.{name}": captioner for name, captioner in params.captioners.items()}
    groups |= {f"sources.{name}": source for name, source in params.sources.items()}
    groups |= {f"evalsets.{name}": evalset for name, evalset in params.evalsets.items()}
    groups |= {f"checkpoints.{name}": checkpoint for name, checkpoint in params.checkpoints.items()}
    folds = [
        f"<details><summary>{cell(name)}</summary>{_key_values(group.model_dump(mode='json'))}</details>"
        for name, group in groups.items()
    ]
    return section("settings", "Settings", table(["method", *(key.replace("_", " ") for key in keys)], rows), *folds)


def _values(compared: Table) -> Markup:
    best = compared.best()
    colours = method_colours(compared.rows)
    rows: list[list[Any]] = []
    for name, values in compared.rows.items():
        shown = [Markup(f"<b>{v:.1f}</b>" if v == top else f"{v:.1f}") for v, top in zip(values, best, strict=True)]
        rows.append([_dot(compared.shown(name), colours[name]), *shown])
    rows.append([CHANCE, *(f"{value:.1f}" for value in compared.chance)])
    header = ["method", *(column.title for column in compared.columns)]
    return table(header, rows, classes={len(rows) - 1: "reference"})


def _ranks(results: Results) -> Markup:
    rows = []
    for name, by_set in results.evaluate.items():
        for evalset, metrics in by_set.items():
            if evalset in results.params.evalsets:
                medians = [metrics.get("i2t_median_rank"), metrics.get("t2i_median_rank")]
                lost = percent(metrics.get("truncated_text_share"))
                rows.append([_method(results, name), evalset, *medians, metrics["tied_queries"], lost])
    header = ["method", "set", "median rank I2T", "median rank T2I", "tied queries", "texts truncated"]
    return table(header, rows, text_columns=[1])


def verdict_box(validation: Report) -> Markup:
    """Whether validation's expectations hold, in green, or which do not, in red."""
    counts, failed = validation["expectations"], validation["failed"]
    docs = '<a href="../validate/docs/summary.html">validation in short, with pictures</a>'
    if not failed:
        return Markup(
            f'<div class="box good">All {counts["evaluated"]} expectations of validation hold ({docs}).</div>'
        )
    items = []
    for one in failed:
        measured = "unknown" if one["measured"] is None else f"{one['measured']:.4g}"
        worst = "".join(f"<br><code>{cell(row)}</code>" for row in one["worst"])
        says = f"<b>{cell(one['suite'])}</b>: {cell(one['says'])} is {measured}, {cell(one['limit'])}"
        items.append(f"<li>{says}{worst}</li>")
    return Markup(
        f'<div class="box bad"><strong>{len(failed)} of {counts["evaluated"]} expectations of validation '
        f"FAILED</strong> ({docs}). Read every result on this page with that in mind."
        f"<ul>{''.join(items)}</ul></div>"
    )


def _texts(results: Results) -> Markup:
    raw = results.validate["raw"]
    header = ["texts", "written", "kept", "rejected", "tokens", "sub-captions", "repeats", "raw-word recall"]
    rows = [
        [
            "raw captions",
            raw["kept"] + raw["rejected"],
            raw["kept"],
            raw["rejected"],
            raw["mean_tokens"],
            None,
            percent(raw["duplicate_share"]),
            None,
        ]
    ]
    for name, report in results.recaption.items():
        verdict = results.validate["long"][name]
        rows.append(
            [
                f"long texts by {name}",
                report["captioned"],
                verdict["kept"],
                verdict["rejected"],
                verdict["mean_tokens"],
                report["mean_sub_captions"],
                percent(verdict["duplicate_share"]),
                percent(verdict["raw_word_recall"]),
            ]
        )
    return table(header, rows)


def _losses(results: Results) -> Markup:
    every = data_losses(results)
    losses = [loss for loss in every if loss.count]
    nothing = [f"{loss.where}: {loss.what}" for loss in every if not loss.count]
    marked = {i: "loss" for i, loss in enumerate(losses) if loss.share > _NOTABLE_SHARE}
    rows = [[loss.where, loss.what, loss.count, loss.total, percent(loss.share), loss.why] for loss in losses]
    marks = f"Shares above {100 * _NOTABLE_SHARE:.0f} % are marked."
    shown = table(["stage", "lost", "number", "of", "share", "reasons"], rows, marked, text_columns=[1, 5])
    rest = f"{len(nothing)} other counts are 0 ({'; '.join(nothing)})." if nothing else ""
    return Markup((shown if rows else "") + note(f"{marks if marked else ''} {rest}"))


def _evalsets(results: Results) -> Markup:
    columns = {
        "num_images": "images",
        "num_set_images": "of the whole set",
        "num_texts": "texts",
        "num_classes": "classes",
        "sub_captions_per_text": "sub-captions a text",
        "characters_per_text": "characters a text",
        "num_duplicate_texts": "texts equal to another image's",
    }
    rows = [[name, *(report.get(key) for key in columns)] for name, report in results.evalset.items()]
    return table(["set", *columns.values()], rows)


def _key_values(values: dict[str, Any], prefix: str = "") -> Markup:
    rows: list[list[Any]] = []

    def add(group: dict[str, Any], prefix: str) -> None:
        for key, value in group.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{key}.")
            else:
                rows.append([Markup(f"<code>{cell(prefix + key)}</code>"), _exact(value)])

    add(values, prefix)
    return table(["setting", "value"], rows, text_columns=[1])


def _exact(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return repr(value) if is_number else value


def _method(results: Results, name: str) -> Markup:
    return _dot(name, method_colours(results.evaluate)[name])


def _dot(name: str, colour: str) -> Markup:
    return Markup(f'<span class="dot" style="background:{colour}"></span>{cell(name)}')
