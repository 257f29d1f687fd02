import pytest

pytest.register_assert_rewrite("cmdc_gateway.testing.stores", "cmdc_gateway.testing.store_machine")
