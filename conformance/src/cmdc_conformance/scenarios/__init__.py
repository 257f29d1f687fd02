"""Every scenario: importing this package registers its checks."""

from cmdc_conformance.scenarios import durable as durable
from cmdc_conformance.scenarios import endpoints as endpoints
from cmdc_conformance.scenarios import hostile as hostile
from cmdc_conformance.scenarios import people as people
from cmdc_conformance.scenarios import random_ones as random_ones
from cmdc_conformance.scenarios import runs as runs
from cmdc_conformance.scenarios import sockets as sockets
from cmdc_conformance.scenarios import streams as streams
from cmdc_conformance.scenarios import strict as strict
from cmdc_conformance.scenarios import tools as tools
