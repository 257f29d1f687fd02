"""JUnit XML, for CI servers."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from cmdc_conformance.reports.report import Report


def xml(report: Report) -> str:
    """Return one test case per requirement."""
    suite = ET.Element("testsuite", name=f"cmdc-conformance {report.profile}", tests=str(len(report.results)))
    counted = {
        "failures": ("FAIL", "NOT_EXERCISED"),
        "errors": ("HARNESS_ERROR",),
        "skipped": ("NOT_APPLICABLE", "KNOWN"),
    }
    for name, statuses in counted.items():
        suite.set(name, str(sum(report.counts[status] for status in statuses)))
    for result in report.results:
        case = ET.SubElement(suite, "testcase", classname=result.requirement.rule, name=result.id)
        message = f"{result.status}: {result.requirement.sentence}"
        match result.status:
            case "FAIL" | "NOT_EXERCISED":
                node = ET.SubElement(case, "failure", message=_clean(message), type=result.status)
                node.text = _clean("\n".join([result.message, *result.evidence]))
            case "HARNESS_ERROR":
                ET.SubElement(case, "error", message=_clean(message)).text = _clean(result.message)
            case "NOT_APPLICABLE" | "KNOWN":
                ET.SubElement(case, "skipped", message=_clean(result.message))
            case "WARN":
                ET.SubElement(case, "system-out").text = _clean(f"WARN: {result.message}")
            case "PASS":
                pass
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


def _clean(text: str) -> str:
    """Replace the characters that XML cannot contain."""
    return "".join(each if each in "\t\n\r" or (each >= " " and each not in "\ufffe\uffff") else "�" for each in text)
