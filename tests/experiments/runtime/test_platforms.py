"""Words about the hardware that a run has."""

import types

import jax
import pytest

from experiments.runtime import platforms


@pytest.mark.parametrize(
  ('platform', 'capability', 'dtype', 'is_warned'),
  [
    ('gpu', '7.5', 'bfloat16', True),
    ('gpu', '8.0', 'bfloat16', False),
    ('gpu', '10.0', 'bfloat16', False),
    ('gpu', '7.5', 'float32', False),
    ('cpu', None, 'bfloat16', False),
  ],
)
def test_warns_of_bfloat16_on_a_gpu_without_it(
  monkeypatch, caplog, platform, capability, dtype, is_warned
):
  device = types.SimpleNamespace(platform=platform, device_kind='Tesla T4')
  if capability is not None:
    device.compute_capability = capability
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])
  platforms.warn_of_dtype(dtype)
  expected = 'Tesla T4 has no arithmetic in bfloat16 (compute capability 7.5, from 8.0 on)'
  assert (expected in caplog.text) == is_warned
