"""Creates the store that a URL names."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from cmdc_gateway import extensions
from cmdc_gateway.store.errors import InvalidStoreURL
from cmdc_gateway.store.store import Store


def create_store(url: str) -> Store:
    """Create the store at a URL; it is not open yet.

    The scheme of the URL is the name of an entry point in the group `cmdc_gateway.stores`. The entry point is a function
    from a URL to a store, which raises InvalidStoreURL if it cannot use the URL. It neither blocks nor opens anything.

    Raises:
        InvalidStoreURL: the URL has no scheme, no installed package provides a store for it, or that store refuses it.
    """
    scheme, colon, _ = url.partition(":")
    available = ", ".join(extensions.names("cmdc_gateway.stores"))
    if not colon:
        raise InvalidStoreURL(url, f"it has no scheme; available: {available}")
    try:
        create = extensions.load("cmdc_gateway.stores", scheme)
    except ImportError as failure:
        raise InvalidStoreURL(url, f"its store cannot be imported: {failure}") from failure
    if create is None:
        raise InvalidStoreURL(url, f"no installed store has this scheme; available: {available}")
    return cast("Callable[[str], Store]", create)(url)
