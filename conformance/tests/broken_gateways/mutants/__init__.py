"""The mutants, a module for each family of rules. Importing this enlists them all."""

from broken_gateways.mutant import MUTANTS, Mutant
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

FAMILIES = (
    bodies,
    doors,
    tenants,
    endpoints,
    events,
    streams,
    sockets,
    people,
    callbacks,
    counting,
    crashes,
    models,
)

__all__ = ["FAMILIES", "MUTANTS", "Mutant"]
