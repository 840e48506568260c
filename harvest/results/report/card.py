"""README.md beside the model: the model card (Mitchell et al., 2019).

It is drawn from metrics.json, what was printed of the data and the results, and what was exported. export_model.py
renews only its last section, which is on exported files.
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
    """What a user of the model should know; data_lines and report_lines are what the run printed.

    metrics["example"] holds the example: {"row": {column: cell}, "probability": of it}, the columns in the order of the
    model's inputs.
    """
    template = ENVIRONMENT.get_template("model_card.md.jinja")
    card = template.render(metrics, data_lines=data_lines, report_lines=report_lines, missing=MISSING, unseen=UNSEEN)
    if exports and exports.formats:
        card += render_exports(exports)
    return card.encode("utf-8", "replace")


def render_exports(exports: ExportSummary) -> str:
    """The section on exported files: how their inputs are called, and an example in C# if there is an ONNX file."""
    return ENVIRONMENT.get_template("exports.md.jinja").render(vars(exports), files=EXPORT_FILES)


def update_card(card: bytes, exports: ExportSummary, has_onnx: bool) -> bytes:
    """The card with a new section on exported files.

    has_onnx: there is an ONNX file from before; what the card says of it stays unless it was written anew.
    """
    start, found, old = card.decode("utf-8", "surrogateescape").rpartition(EXPORTS_HEADING)
    section = render_exports(exports)
    if found and has_onnx and "onnx" not in exports.formats and CSHARP_START in old:
        section += "\n" + old[old.index(CSHARP_START) :]
    start = start if found else old
    return f"{start.rstrip()}\n\n{section}".encode("utf-8", "surrogateescape")
