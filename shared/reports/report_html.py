"""A report as one HTML file that loads nothing. Pure."""

from html import escape
from typing import Final

from shared.host.printable import printable
from shared.reports.report import PeriodReport, VmNews
from shared.reports.report_text import happened, lines, moved_words
from shared.tasks.judgement import Level

_STYLE: Final = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
section { border-left: .3rem solid #1a7f37; margin: 1rem 0; padding: 0 1rem; }
.WARNING, .UNKNOWN { border-color: #9a6700; } .CRITICAL { border-color: #cf222e; }
h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; } ul { margin: .2rem 0; }
"""


def page(report: PeriodReport) -> str:
    """The whole file. All that comes from elsewhere is escaped."""
    head, *_ = "\n".join(lines(report)).split("\n\n")
    title, *facts = head.split("\n")
    quiet = [vm.vm for vm in report.vms if vm.is_quiet]
    rest = f"<p>Nothing happened to {_said(', '.join(quiet))}.</p>" if quiet else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="vmbackup-report" content="1">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        f"<title>{_said(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{_said(title)}</h1>{''.join(f'<p>{_said(fact)}</p>' for fact in facts)}"
        f"{''.join(_section(vm) for vm in report.vms if not vm.is_quiet)}{rest}"
        "</main></body></html>\n"
    )


def _section(vm: VmNews) -> str:
    verdicts = [] if vm.verdict is None else [vm.verdict, *vm.verdict.also]
    level = verdicts[0].level if verdicts else Level.OK
    items = [f"{one.level.name}: {one.reason}" for one in verdicts]
    items += [one.remedy for one in verdicts[:1] if one.remedy and level != Level.OK]
    items += [*happened(vm), *filter(None, [moved_words(vm.traffic)])]
    items += [f"next: {due}" for due in vm.due]
    said = "".join(f"<li>{_said(item)}</li>" for item in items)
    return f'<section class="{level.name}"><h2>{_said(vm.vm)}</h2><ul>{said}</ul></section>'


def _said(text: str) -> str:
    return escape(printable(text))
