"""How hard hypothesis looks: HYPOTHESIS_PROFILE=nightly looks twelve times as long."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]

settings.register_profile(
    "default",
    max_examples=250,
    stateful_step_count=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=_SLOW_IS_FINE,
)
settings.register_profile("nightly", settings.get_profile("default"), max_examples=2500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
