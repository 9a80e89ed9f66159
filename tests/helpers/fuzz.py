"""How many cases a fuzz test tries: the same few each time; with RESNET_HUB_FUZZ=20, twenty times as many, new ones."""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("RESNET_HUB_FUZZ", "1"))


def cases(count: int) -> settings:
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        deadline=None,  # whatever else the machine does
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
