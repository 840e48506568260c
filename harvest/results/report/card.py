"""README.md in the model directory: the model card (Mitchell et al., 2019).

It is rendered from metrics.json, the printed lines about the data and the results, and the exports. export_model.py
updates only the last section, on exported files.
"""

from typing import Any

from harvest.data.cells import MISSING, UNSEEN
from harvest.model.export import ExportSummary
from harvest.results.report.page import ENVIRONMENT
from harvest.run_directory import EXPORT_FILES

EXPORTS_HEADING = "\n## Exported files\n"
CSHARP_START = "From C#, "


def render_model_card(
    metrics: dict[str, Any], data_lines: list[str], report_lines: list[str], exports: ExportSummary | None = None
) -> bytes:
    """The model card; data_lines and report_lines are the lines that the run printed.

    metrics["example"] is {"row": {column: cell}, "probability": float}; columns are in the order of the model's inputs.
    """
    template = ENVIRONMENT.get_template("model_card.md.jinja")
    card = template.render(metrics, data_lines=data_lines, report_lines=report_lines, missing=MISSING, unseen=UNSEEN)
    if exports and exports.formats:
        card += render_exports(exports)
    return card.encode("utf-8", "replace")


def render_exports(exports: ExportSummary) -> str:
    """The section on exported files: the names of their inputs, and an example in C# if there is an ONNX file."""
    return ENVIRONMENT.get_template("exports.md.jinja").render(vars(exports), files=EXPORT_FILES)


def update_card(card: bytes, exports: ExportSummary, has_onnx: bool) -> bytes:
    """The card with a new section on exported files.

    has_onnx: there is an ONNX file from an earlier export; its example stays unless this export replaces the file.
    """
    start, found, old = card.decode("utf-8", "surrogateescape").rpartition(EXPORTS_HEADING)
    section = render_exports(exports)
    if found and has_onnx and "onnx" not in exports.formats and CSHARP_START in old:
        section += "\n" + old[old.index(CSHARP_START) :]
    start = start if found else old
    return f"{start.rstrip()}\n\n{section}".encode("utf-8", "surrogateescape")
