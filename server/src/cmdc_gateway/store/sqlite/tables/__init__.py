"""The SQL of each table. A function that writes runs inside a transaction that is rolled back if it raises.

Functions that read find a session by its key, those that write by its `pk`, which the caller has looked up.
"""
