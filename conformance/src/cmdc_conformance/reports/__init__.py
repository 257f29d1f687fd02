"""Verdicts on the requirements, and the formats that a report is written in."""
