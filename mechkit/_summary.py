"""A result as a short piece of HTML, for notebooks."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup

SHOWN_APART = ("title", "metric", "effect_undefined")
MUTED = "color:#6b7680;font-size:90%"


def summary_html(title: str, data: xr.Dataset, baselines: Sequence[str], table: pd.DataFrame | None) -> str:
    """What it is, metric and sizes, baselines, the first cells of `table`, and the provenance folded away.

    All text is escaped.
    """
    attrs = {str(name): value for name, value in data.attrs.items()}
    facts = [str(attrs["metric"])] if "metric" in attrs else []
    facts += [f"{dim}: {size}" for dim, size in data.sizes.items()]
    parts = [
        Markup("<strong>{}</strong>").format(title),
        Markup("<div style='{}'>{}</div>").format(MUTED, " · ".join(facts)),
    ]
    if baselines:
        parts.append(Markup("<div>{}</div>").format("; ".join(baselines)))
    if attrs.get("effect_undefined"):
        parts.append(Markup("<div><em>effects are undefined:</em> {}</div>").format(attrs["effect_undefined"]))
    if table is not None and len(table):
        parts.append(_table(table))
    rows = [
        Markup("<tr><td style='text-align:left'>{}</td><td style='text-align:left'>{}</td></tr>").format(name, value)
        for name, value in attrs.items()
        if name not in SHOWN_APART
    ]
    if rows:
        body = Markup("<details><summary>provenance</summary><table>{}</table></details>")
        parts.append(body.format(Markup("").join(rows)))
    return str(Markup("<div>{}</div>").format(Markup("").join(parts)))


def _table(table: pd.DataFrame) -> Markup:
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in table.columns)
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell_text(value)) for value in row))
        for row in table.itertuples(index=False)
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, rows)


def cell_text(value: object, digits: int = 3) -> str:
    """A table cell: fractions to `digits` significant digits, a dash for what was not measured, else plain text."""
    if isinstance(value, (float, np.floating)):
        return "–" if value != value else f"{value:.{digits}g}"
    return str(value)
