"""The conformance suite of the CMDC Gateway protocol: judges any server at a URL.

    from cmdc_conformance import Keys, Options, Target, run

    report = run(Target("http://127.0.0.1:4000", Keys("…")), Options(profile="core"))
    print(report.claim, report.failed())

It never imports a server; what it knows of the protocol comes from the published JSON schemas, and from the requirements
in this package.
"""

from cmdc_conformance.report import Report
from cmdc_conformance.requirements import Requirement, requirements
from cmdc_conformance.runner import Options, judge, run
from cmdc_conformance.target import Approval, Hooks, Keys, Limits, Target, TargetError, Timing
from cmdc_conformance.verdict import Result

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
    "judge",
    "requirements",
    "run",
]
