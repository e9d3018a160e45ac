"""The report of a study: an HTML page, its data as JSON, and a summary in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prooftune.evaluation.measurements import tidy
from prooftune.evaluation.score_types import ChangedSide
from prooftune.report.format import DECIMAL, FILTERS, PERCENT
from prooftune.report.markdown import render_markdown
from prooftune.report.types import ReportFacts
from prooftune.report.view import page_context
from prooftune.utils.files import write_json, write_text

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
STYLES = (TEMPLATES.parents[1] / "look.css", TEMPLATES / "page.css", TEMPLATES / "figures.css")
"""Style sheets: colours and type shared with the playground, then those of the page."""


def write_report(facts: ReportFacts, folder: Path) -> None:
    """Write ``report.html``, ``report.md`` and ``report.json``.

    The page is one self-contained file that needs no network. The output is deterministic.

    Args:
        facts: ``name`` and ``scores`` (see `evaluation.scores.score`,
            `evaluation.answers.scores.score_answers` and `judge.study.judge_study`). Optional, each
            with a section of the page: ``recipe`` (YAML), ``audit`` (findings, balance, lengths,
            truncation), ``notes``, ``variants`` (name -> kind, description, cost, training,
            changes, forgetting, prompt, prompts_tried), ``environment``, ``seed``, ``created``,
            ``prooftune_version``, ``estimates``.
        folder: output folder, usually the run folder.

    Raises:
        Failure: the folder cannot be written.
    """
    # JSON has no NaN, and page and JSON must show the same values.
    facts = tidy(facts)
    write_text(folder / "report.html", render_page(facts))
    write_text(folder / "report.md", render_markdown(facts))
    write_json(folder / "report.json", without_texts(facts))


def render_page(facts: ReportFacts) -> str:
    """The page as HTML; all text from data is escaped."""
    template = template_environment().get_template("page.html.j2")
    return template.render(style=page_style(), **page_context(facts)) + "\n"


def template_environment() -> Environment:
    """Jinja's environment with the report's filters; text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        # A misspelt name is an error, and not an empty place on the page.
        undefined=StrictUndefined,
        # So that the tags of a template leave no blank lines in the page.
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(PERCENT=PERCENT, DECIMAL=DECIMAL)
    return environment


def page_style() -> Markup:
    """The style sheets of a page."""
    from markupsafe import Markup

    # Ours, and not to be escaped: `>` is part of selectors.
    return Markup("".join(path.read_text(encoding="utf-8") for path in STYLES))


def without_texts(facts: ReportFacts) -> dict[str, Any]:
    """The facts without example texts, which the data files hold under the same ids."""
    # A copy: page and Markdown show the texts.
    scores = dict(facts["scores"])
    changed = facts["scores"]["changed"]
    if changed:
        scores["changed"] = {
            **changed,
            "fixed": _bare(changed["fixed"]),
            "broken": _bare(changed["broken"]),
        }
    errors = facts["scores"].get("label_errors")
    if errors:
        rows = [{k: v for k, v in row.items() if k != "text"} for row in errors["rows"]]
        scores["label_errors"] = {**errors, "rows": rows}
    analysis = facts["scores"].get("errors")
    if analysis:
        scores["errors"] = {
            **analysis,
            "confusions": [
                {
                    **c,
                    "examples": [
                        {k: v for k, v in e.items() if k != "text"} for e in c["examples"]
                    ],
                }
                for c in analysis["confusions"]
            ],
        }
    return {**facts, "scores": scores}


def _bare(side: ChangedSide) -> dict[str, Any]:
    return {
        **side,
        "examples": [
            {k: v for k, v in e.items() if k not in ("text", "sources")} for e in side["examples"]
        ],
    }
