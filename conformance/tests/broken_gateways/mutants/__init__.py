"""The mutants, a module for each family of rules. Importing this enlists them all."""

from broken_gateways.mutants import (
    bodies,
    callbacks,
    counting,
    crashes,
    doors,
    endpoints,
    events,
    models,
    people,
    sockets,
    streams,
    tenants,
)

__all__ = [
    "bodies",
    "callbacks",
    "counting",
    "crashes",
    "doors",
    "endpoints",
    "events",
    "models",
    "people",
    "sockets",
    "streams",
    "tenants",
]
