"""The mutants, one module per family of rules. Importing this package registers them all."""

from broken_gateways.mutant import MUTANTS, Mutant
from broken_gateways.mutants import (
    auth,
    bodies,
    callbacks,
    crashes,
    endpoints,
    events,
    human_input,
    models,
    streams,
    tenants,
    usage,
    websockets,
)

FAMILIES = (
    bodies,
    auth,
    tenants,
    endpoints,
    events,
    streams,
    websockets,
    human_input,
    callbacks,
    usage,
    crashes,
    models,
)

__all__ = ["FAMILIES", "MUTANTS", "Mutant"]
