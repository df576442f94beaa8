"""The trade-off document as one HTML page that needs no network: pictures first, then a table that sorts.

Without JavaScript the pictures of all qualities stand below one another, and the table keeps its order.
"""

import base64
import html
from typing import Any

from s3prl_pruned.report.tradeoff_columns import (
    TradeoffColumn,
    columns,
    costs_shown,
    full_name,
    is_on_front,
    models_of,
    qualities,
    quality_column,
)
from s3prl_pruned.report.tradeoff_svg import key, made_by, panel
from s3prl_pruned.resources import PACKAGE

_ASSETS = PACKAGE / "report"
# Whatever a name of the document should hold: the page asks for nothing and runs no script but its own.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_FIGURE_NOTE = (
    "Line and rings: no other model is better without a higher cost. Point at a model for its name and command; click "
    "to keep them."
)


def page(data: dict, csv: str, explanation: list[str], left_out: str | None) -> str:
    """The page.

    Args:
        data: the trade-off document.
        csv: all numbers, for the download.
        explanation: what the numbers are, a paragraph each.
        left_out: what is missing and why, in one line.
    """
    models = models_of(data)
    stamp = f"s3prl_pruned {data.get('versions', {}).get('s3prl_pruned', '')}, {data.get('date', '')[:10]}"
    link = base64.b64encode(csv.encode()).decode()
    return "\n".join(
        [
            "<!doctype html>",
            "<html lang=en><head><meta charset=utf-8><title>Trade-off report</title>",
            "<meta name=viewport content='width=device-width, initial-scale=1'>",
            f'<meta http-equiv=Content-Security-Policy content="{_POLICY}">',
            f"<style>\n{_asset('css')}</style></head><body>",
            "<h1>What each model costs, and what it is worth</h1>",
            f"<p class=about>{html.escape(_about(data))}</p>",
            *_pictures(data, models),
            "<div class=heading><h2>All models</h2>",
            f"<a download=tradeoff.csv href='data:text/csv;charset=utf-8;base64,{link}'>Download as CSV</a></div>",
            *_table(data, models),
            "<p class=note>Click on a heading to sort. Bold: no other model is better in it without a higher cost of "
            "some kind.</p>",
            "<h2>What the numbers are</h2>",
            f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in explanation)}</ul>",
            *([f"<p id=left-out>{html.escape(left_out)}</p>"] if left_out else []),
            f"<footer>{html.escape(stamp)}</footer>",
            "<div id=tip role=status hidden></div>",
            f"<script>\n{_asset('js')}</script></body></html>",
            "",
        ]
    )


def _asset(kind: str) -> str:
    return (_ASSETS / f"tradeoff_page.{kind}").read_text(encoding="utf-8")


def _about(data: dict) -> str:
    """How many models, of what, timed where: one line."""
    number = len(data["entries"])
    parts = [f"{number} model{'s' * (number != 1)}", f"costs for {data['seconds_of_audio']:g} s of audio"]
    timing = data.get("timing")
    if timing:
        threads = timing.get("threads")
        parts.append(
            f"timed on {timing.get('machine')}, {threads} thread{'s' * (threads != 1)}, {timing.get('date', '')[:10]}"
        )
    noisy = [model["name"] for model in data["entries"] if model["noisy"]]
    if noisy:
        parts.append(f"TOO NOISY a machine for the times of {', '.join(noisy)}")
    return "; ".join(parts)


def _pictures(data: dict, models: list[dict[str, Any]]) -> list[str]:
    """A chooser, a legend, and the panels of each quality."""
    names = qualities(data)
    if not names:
        return ["<p class=note>No quality was measured, so there is no picture.</p>"]
    methods = list(dict.fromkeys(model["method"] for model in models))
    options = "".join(
        f"<option value={i}>{html.escape(quality_column(data, name).header)}</option>" for i, name in enumerate(names)
    )
    lines = [f"<figure><label id=chooser hidden>Show <select>{options}</select></label>", "<div id=legend>"]
    for i, method in enumerate(methods):
        shown = f"{key(method, methods)}{html.escape(method)}"
        lines.append(f"<button type=button aria-pressed=true data-method={i}>{shown}</button>")
    lines.append("</div>")
    for name in names:
        quality = quality_column(data, name)
        having = [model for model in models if name in model["qualities"]]
        lines.append(f"<section class=panels aria-label='{html.escape(quality.title, quote=True)} against each cost'>")
        lines += [panel(models, methods, quality, cost) for cost in costs_shown(having)]
        lines.append("</section>")
    return [*lines, f"<figcaption class=note>{_FIGURE_NOTE}</figcaption></figure>"]


def _table(data: dict, models: list[dict[str, Any]]) -> list[str]:
    """A row for each model. Cells carry their numbers (`data-value`), so that sorting knows no units."""
    shown = columns(data)
    split = sum(column.is_quality for column in shown)
    heads = [_head(column) for column in shown]
    heads[split:split] = [_text_head("method")]
    lines = ["<div class=wide><table><thead><tr>", _text_head("model"), *heads, "</tr></thead><tbody>"]
    decimals = [column.few_decimals(models) for column in shown]
    for i, model in enumerate(models):
        cells = [_cell(column, model, number) for column, number in zip(shown, decimals, strict=True)]
        cells[split:split] = [f"<td class=text>{html.escape(model['method'])}</td>"]
        name = html.escape(full_name(model)).replace("_", "_<wbr>").replace("-", "-<wbr>")  # where it may be broken
        origin = html.escape(made_by(model), quote=True)
        kind = " class=dense" * (model["method"] == "dense")
        lines.append(f"<tr data-model={i}{kind}><th scope=row title='{origin}'>{name}</th>{''.join(cells)}</tr>")
    return [*lines, "</tbody></table></div>"]


def _text_head(title: str) -> str:
    return f"<th scope=col class=text data-first=ascending><button type=button><span>{title}</span></button></th>"


def _head(column: TradeoffColumn) -> str:
    """A heading: the first click puts the best model first."""
    first = "ascending" if column.better == "down" else "descending"
    arrow = {"up": "↑ better", "down": "↓ better"}[column.better] if column.is_quality else ""
    unit = " ".join(filter(None, (column.unit, arrow))) or "&nbsp;"
    about = html.escape(column.about, quote=True)
    return (
        f"<th scope=col data-first={first} title='{about}'><button type=button><span>{html.escape(column.title)}</span>"
        f"<small>{unit}</small></button></th>"
    )


def _cell(column: TradeoffColumn, model: dict[str, Any], decimals: int) -> str:
    text = column.text(model, decimals)
    if text is None:
        return "<td>–</td>"
    if column.key in ("seconds", "speed") and model["noisy"]:
        text += " noisy"
    told = ""
    if column.is_quality:
        quality = model["qualities"][column.key]
        if quality["runs"] > 1:
            told = f" title='mean and standard deviation of {int(quality['runs'])} runs'"
        if is_on_front(model, column.key):
            told += " class=pareto"
    return f"<td data-value={float(column.value(model) or 0)!r}{told}>{html.escape(text)}</td>"
