"""The store in one SQLite file, used by one gateway process at a time.

`store` implements the interface and `url` creates it. `database` locks the file and opens connections to it, `schema`
creates its tables. One thread writes (`writer`) and commits together what is waiting; a few threads read (`readers`).
`jobs` is what the writer runs, `journal` its fast path for events, `orphans` deletes the rows of deleted sessions, and
`tables` holds the SQL, one module per table.
"""

from cmdc_gateway.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
