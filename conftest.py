"""Settings that every package's tests share."""

from hypothesis import settings

# A busy machine is no defect: how long one example may take is bounded by the test's own timeout. Everything else stays
# as Hypothesis has it, which under CI means the same examples on every run.
settings.register_profile("unhurried", settings(), deadline=None)
settings.load_profile("unhurried")
