"""Every scenario: importing this package registers its checks."""

from cmdc_conformance.scenarios import closes as closes
from cmdc_conformance.scenarios import creating as creating
from cmdc_conformance.scenarios import cursors as cursors
from cmdc_conformance.scenarios import doors as doors
from cmdc_conformance.scenarios import durable as durable
from cmdc_conformance.scenarios import history as history
from cmdc_conformance.scenarios import hostile as hostile
from cmdc_conformance.scenarios import idempotency as idempotency
from cmdc_conformance.scenarios import people as people
from cmdc_conformance.scenarios import prompts as prompts
from cmdc_conformance.scenarios import random_ones as random_ones
from cmdc_conformance.scenarios import rates as rates
from cmdc_conformance.scenarios import runs as runs
from cmdc_conformance.scenarios import service as service
from cmdc_conformance.scenarios import sessions as sessions
from cmdc_conformance.scenarios import sockets as sockets
from cmdc_conformance.scenarios import stopping as stopping
from cmdc_conformance.scenarios import streams as streams
from cmdc_conformance.scenarios import strict as strict
from cmdc_conformance.scenarios import tickets as tickets
from cmdc_conformance.scenarios import tools as tools
