"""Transports to the server under test, and the monitors that validate whatever they receive.

Nothing in here knows what a check is about. Imports: `event` and `grammar` at the bottom, then `monitors`, `reader`, and
the clients `http`, `raw_http`, `websocket` and `raw_websocket`.
"""
