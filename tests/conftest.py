"""What holds for all tests."""

import contextlib

with contextlib.suppress(ImportError):  # the environments of Beam, Ray and the TPU compiler have no hypothesis
    from hypothesis import HealthCheck, settings

    # How long an example takes says how busy the machine is; what hangs is ended by pytest-timeout.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")
