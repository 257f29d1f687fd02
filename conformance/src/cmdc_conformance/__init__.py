"""The conformance suite of the CMDC Gateway protocol: tests any server at a URL.

    from cmdc_conformance import Keys, Options, Target, run_suite

    report = run_suite(Target("http://127.0.0.1:4000", Keys("…")), Options(profile="core"))
    print(report.claim, report.failed())

It knows the protocol from the published JSON schemas and from the requirements in this package, and imports no server.
"""

from cmdc_conformance.reports.files import write_report
from cmdc_conformance.reports.report import Report
from cmdc_conformance.reports.verdict import Result
from cmdc_conformance.requirements import Requirement, requirements
from cmdc_conformance.run.options import Options
from cmdc_conformance.run.runner import run_suite, run_suite_async
from cmdc_conformance.target import Approval, Hooks, Keys, Limits, Target, TargetError, Timing

__version__ = "0.1.0"

__all__ = [
    "Approval",
    "Hooks",
    "Keys",
    "Limits",
    "Options",
    "Report",
    "Requirement",
    "Result",
    "Target",
    "TargetError",
    "Timing",
    "__version__",
    "requirements",
    "run_suite",
    "run_suite_async",
    "write_report",
]
