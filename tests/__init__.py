"""The tests of hmacfs."""

from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does.
settings.register_profile("hmacfs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hmacfs")
