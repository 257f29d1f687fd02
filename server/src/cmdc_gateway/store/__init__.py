"""Persistent state: the `Store` interface, and the stores that implement it.

`store` is the interface, `rows` what it stores, `writes` the changes that `Store.commit` applies, `errors` how it fails.
`factory` creates the store that a URL names, through the entry point group `cmdc_gateway.stores`.
"""
