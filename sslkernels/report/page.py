"""One self-contained HTML page: no scripts, no network, light and dark, narrow and wide."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --text: #1d2126; --quiet: #5b6470; --line: #d9dde2;
  --back: #ffffff; --band: #f4f6f8; --good: #00694c; --bad: #a33c00; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e6ea; --quiet: #a3abb6; --line: #323840; --back: #15181c; --band: #1d2126;
    --good: #4fc79f; --bad: #f0935a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .4rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.quiet { color: var(--quiet); }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: inherit; }
.panels { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.panels img { width: 100%; height: auto; display: block; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
img.whole { max-width: 100%; min-width: 40rem; height: auto; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; }
@media (max-width: 40rem) {
  .stacked th { display: none; } .stacked td { display: block; border: 0; padding: .1rem 0; }
  .stacked tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  .stacked td:first-child { font-weight: 600; } }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--quiet); }
pre { background: var(--band); padding: .7rem .9rem; overflow-x: auto; font-size: .85rem; }
"""


def text(value: Any) -> str:
    """Escaped; whatever cannot be encoded is replaced."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(plain)


def page(title: str, body: Sequence[str]) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def heading(words: str, anchor: str) -> str:
    return f'<h2 id="{text(anchor)}">{text(words)}</h2>'


def paragraph(words: str, *, quiet: bool = False) -> str:
    return f"<p{' class=quiet' if quiet else ''}>{text(words)}</p>"


def code(lines: str) -> str:
    return f"<pre>{text(lines)}</pre>"


def pictures(light: Sequence[str], dark: Sequence[str], alts: Sequence[str]) -> str:
    """Panels side by side where there is room, one below another where there is not; each picture
    is a ``data:`` address, in a light and a dark form."""
    parts = []
    for bright, dim, alt in zip(light, dark, alts, strict=True):
        source = ""
        if dim != bright:
            source = f'<source media="(prefers-color-scheme: dark)" srcset="{dim}">'
        parts.append(f'<picture>{source}<img src="{bright}" alt="{text(alt)}"></picture>')
    return '<div class="panels">\n' + "\n".join(parts) + "\n</div>"


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    classes: Sequence[str] = (),
    right: Sequence[bool] = (),
    stacked: bool = False,
) -> str:
    """Numbers to three digits, to the right as are the columns that ``right`` names; ``classes``
    style the last cell of each row. ``stacked`` puts the cells of a row below each other on a
    narrow screen."""
    sides = list(right) or [False] * len(columns)
    head = "".join(
        f"<th{' class=number' if side else ''}>{text(name)}</th>"
        for name, side in zip(columns, sides, strict=True)
    )
    body = []
    for number, row in enumerate(rows):
        cells = [_cell(value, side) for value, side in zip(row, sides, strict=True)]
        if classes and classes[number]:
            cells[-1] = f'<td class="{classes[number]}">{text(row[-1])}</td>'
        body.append(f"<tr>{''.join(cells)}</tr>")
    lines = "\n".join(body)
    kind = " class=stacked" if stacked else ""
    return f'<div class="wide"><table{kind}>\n<tr>{head}</tr>\n{lines}\n</table></div>'


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{text(summary)}</summary>\n{content}\n</details>"


def number(value: float) -> str:
    """Three significant digits; a dash for what is not a number."""
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:,.0f}"


def _cell(value: Any, right: bool) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"<td{' class=number' if right else ''}>{text(value)}</td>"
    shown = number(float(value)) if isinstance(value, float) else f"{value:,}"
    return f'<td class="number">{shown}</td>'
