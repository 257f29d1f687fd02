"""Every scenario: importing this package registers its checks."""

from cmdc_conformance.scenarios import endpoints as endpoints
from cmdc_conformance.scenarios import runs as runs
