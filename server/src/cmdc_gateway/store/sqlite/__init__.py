"""The store in one SQLite file, for one gateway process: what survives `kill -9`, and on request power loss (DUR-4).

`database` has the file to itself and opens connections to it; `schema` is its tables. One thread writes (`writer`), and
what waits for it is committed together; a few threads read (`readers`). `writing` and `reading` are the SQL, `sweep` removes
what deleted sessions left. `store` puts them together.
"""

from cmdc_gateway.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
