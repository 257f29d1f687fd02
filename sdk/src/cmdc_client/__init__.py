"""The Python client of the CMDC Gateway protocol.

There is no client in here yet: this release holds the place of the package, its types marker and its version.
It will never import the server; what it knows of the protocol comes from the published JSON schemas.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
