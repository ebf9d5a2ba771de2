"""The page of ``sslkernels report``: its tables and its figure, on the template of all pages."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from sslkernels.evaluation import Evaluation
from sslkernels.report import geometry, page
from sslkernels.report.files import versions

_TITLE = "Class geometry of embeddings"
_BROKEN = {  # for a terminal
    "leave-\none-out": "leave-one-out",
    "uni-\nformity": "uniformity",
    "align-\nment": "alignment",
}


def document(evaluation: Evaluation, described: Mapping[str, Any], picture: bytes | None) -> str:
    """Args:
    evaluation: the results.
    described: the files that they come from, as :func:`sslkernels.report.content.report` has it.
    picture: the figure as a PNG; None where it could not be drawn.
    """
    body = [f"<h1>{page.text(_TITLE)}</h1>"]
    for shown in geometry.report(evaluation):
        if isinstance(shown, Table):
            title = _plain(shown.title or "")
            body += [page.heading(title, title.lower().replace(" ", "-")), _table(shown)]
            if shown.caption:
                body.append(page.paragraph(_plain(shown.caption), quiet=True))
        else:
            body.append(page.paragraph(_plain(shown)))
    if picture is not None:
        address = "data:image/png;base64," + base64.b64encode(picture).decode()
        body += [
            page.heading("Figure", "figure"),
            f'<div class="wide"><img class="whole" src="{address}" alt="The figure of the report">'
            "</div>",
        ]
    inputs = {name: str(files) for name, files in described["embeddings"].items()}
    facts = [*inputs.items(), *evaluation.settings.items(), *versions().items()]
    body += [
        page.heading("Settings", "settings"),
        page.table(("setting", "value"), [(key or "embeddings", str(v)) for key, v in facts]),
    ]
    return page.page(_TITLE, body)


def _table(shown: Table) -> str:
    heads = [_plain(column.header) for column in shown.columns]
    columns = [_BROKEN.get(head, head) for head in heads]
    cells = [[_plain(cell) for cell in column.cells] for column in shown.columns]
    right = [column.justify == "right" for column in shown.columns]
    return page.table(columns, list(zip(*cells, strict=True)), right=right)


def _plain(words: Any) -> str:
    return words.plain if isinstance(words, Text) else Text.from_markup(str(words)).plain
