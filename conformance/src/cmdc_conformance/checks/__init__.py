"""The checks: one function for each way to test one requirement of the protocol.

`registry` holds the decorator that registers a check, `context` what a check works with, and `catalog` imports every
module with checks. The modules are grouped by subject in the folders beside them.
"""
