"""Mutants: gateways of this project with one fault each, to test the suite with.

A mutant is a function that patches one thing in `cmdc_gateway`. It names the requirement that the suite must report, and
its docstring describes the fault. `forkserver` starts each mutant in a process of its own.
"""
