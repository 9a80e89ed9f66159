"""The number of cases of a fuzz test: few and always the same; RESNET_HUB_FUZZ=20 tries 20 times as many, at random."""

import os

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("RESNET_HUB_FUZZ", "1"))


def cases(count: int) -> settings:
    return settings(
        max_examples=count * TIMES,
        derandomize=TIMES == 1,
        deadline=None,  # the machine may be busy
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
