"""What a failed response of the Hub says."""

import pytest

from resnet_hub.hub_client.errors import parse_retry_after


@pytest.mark.parametrize(
    "text", ["9" * 400, "Fri, 31 Dec 2030 23:59:59 +9999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"]
)
def test_no_wait_is_too_long_to_be_a_number(text: str) -> None:
    wait = parse_retry_after({"Retry-After": text})
    assert wait is None or 0 <= wait <= 1e6
