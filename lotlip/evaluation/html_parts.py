"""Small pieces of HTML: escaped cells, tables, pictures inside the page, and the page's style."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { --ink: #1f2933; --muted: #66727f; --line: #dfe4ea; --accent: #d1495b; --blue: #2e6f95; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 28px 72px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 46px 0 10px; padding-top: 14px; border-top: 2px solid var(--ink); }
h3 { font-size: 16px; margin: 26px 0 6px; }
p { margin: 8px 0; max-width: 92ch; }
.lead, .note, caption { color: var(--muted); }
.note, caption { font-size: 14px; }
nav a { margin-right: 18px; font-size: 14px; color: var(--blue); }
a { color: var(--blue); }
.scroll { overflow-x: auto; margin: 10px 0 14px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 15px; }
th, td { padding: 6px 14px 6px 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--muted); font-size: 13.5px; vertical-align: bottom; }
thead th { border-bottom: 1.5px solid var(--ink); }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td { white-space: nowrap; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; }
tr.reference td { color: var(--muted); font-style: italic; }
td b { color: var(--accent); }
tr.loss td { background: #fff6e0; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 8px; }
img { max-width: 100%; height: auto; display: block; margin: 14px 0; }
.box { border-left: 4px solid; padding: 10px 16px; margin: 14px 0; border-radius: 0 6px 6px 0; }
.good { border-color: #3f9c77; background: #eef8f3; }
.bad { border-color: #c1121f; background: #fdeeee; }
.bad li { margin: 6px 0; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--blue); font-size: 15px; }
.columns { display: flex; flex-wrap: wrap; gap: 0 48px; }
@media print { main { max-width: none; padding: 0; } nav { display: none; }
  h2, h3 { break-after: avoid; } tr, img { break-inside: avoid; } }
""".strip()


class Markup(str):
    """HTML that is escaped already."""

    __slots__ = ()


def cell(value: Any) -> Markup:
    """A value as escaped text: numbers short, shares as they are, nothing as a dash."""
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("–")
    if isinstance(value, bool):
        return Markup("yes" if value else "no")
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return Markup(f"{int(value):,}")
    if isinstance(value, float):
        return Markup(f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}")
    return Markup(escape(str(value)))


def percent(share: float | None) -> Markup:
    """A share in [0, 1] as percent."""
    return cell(share) if share is None else Markup(f"{100 * share:.1f} %")


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    classes: Mapping[int, str] | None = None,
    text_columns: Sequence[int] = (),
) -> Markup:
    """An HTML table; `classes` gives rows a CSS class by number, `text_columns` are set left and wrapped."""
    kinds = dict.fromkeys(text_columns, ' class="text"')
    head = "".join(f"<th{kinds.get(i, '')}>{cell(name)}</th>" for i, name in enumerate(header))
    body = []
    for number, row in enumerate(rows):
        kind = (classes or {}).get(number)
        cells = "".join(f"<td{kinds.get(i, '')}>{cell(value)}</td>" for i, value in enumerate(row))
        body.append(f'<tr class="{kind}">{cells}</tr>' if kind else f"<tr>{cells}</tr>")
    joined = "\n".join(body)
    return Markup(f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{joined}</tbody></table></div>')


def picture(png: bytes, says: str) -> Markup:
    """A PNG inside the page, with a text in its place for those who cannot see it."""
    return Markup(f'<img alt="{escape(says)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">')


def section(anchor: str, title: str, *parts: str) -> Markup:
    """A part of the page under a heading."""
    joined = "\n".join(parts)
    return Markup(f'<section id="{anchor}"><h2>{escape(title)}</h2>\n{joined}\n</section>')


def page(title: str, lead: str, anchors: Mapping[str, str], sections: Sequence[str]) -> str:
    """The whole document; `anchors` maps ids of sections to their names in the list of contents."""
    links = "".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in anchors.items())
    joined = "\n".join(sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body><main>\n<h1>{escape(title)}</h1>\n"
        f'<p class="lead">{lead}</p>\n<nav>{links}</nav>\n{joined}\n</main></body></html>\n'
    )


def note(text: str) -> Markup:
    """A remark below a table; `text` is HTML already."""
    return Markup(f'<p class="note">{text}</p>')
