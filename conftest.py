"""Settings that every package's tests share."""

import pytest
from hypothesis import settings

# Said here once, before any folder's conftest.py imports one of them: what an `assert` in there saw is worth reading.
pytest.register_assert_rewrite("cmdc_gateway.testing", "cmdc_testkit")

# The options, the fixture and the table of figures of `nox -s faults`.
pytest_plugins = ["cmdc_testkit.experiments"]

# A busy machine is no defect: how long one example may take is bounded by the test's own timeout. Everything else stays
# as Hypothesis has it, which under CI means the same examples on every run.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")
