"""Gateways of this project, each broken in one named way, to judge the suite with.

A mutant is a small function that changes one thing of `cmdc_gateway`. It names the requirement that must fail when the
suite meets it; its docstring says what is wrong with the gateway. `nursery.py` raises them, each in its own process.
"""
