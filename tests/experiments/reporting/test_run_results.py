"""The report of a run: valid JSON beside its curves."""

import json
import math
import struct

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.reporting.curves import PANELS
from experiments.reporting.recording import MetricWriter
from experiments.reporting.results import write_report

NAMES = [line.metric for panel in PANELS for line in panel.lines]


def _write_metrics(workdir, steps, names=NAMES):
  with MetricWriter(workdir) as writer:
    for step in steps:
      writer.write(step, {name: 1 / (1 + step) for name in names})


def test_report_and_picture(tmp_path):
  _write_metrics(tmp_path, range(0, 1000, 10))
  summary = {
    'top1': np.float32(0.5),
    'loss': jnp.float32(0.25),
    'steps': np.int64(7),
    'diverged': {'loss': math.nan, 'peak': [math.inf, 1.0]},
    'note': 'größer',
  }
  report, curves = write_report(tmp_path, summary, steps_per_epoch=12.5, title='a run')
  assert (report.name, curves.name) == ('report.json', 'curves.png')
  assert json.loads(report.read_text()) == {
    'top1': 0.5,
    'loss': 0.25,
    'steps': 7,
    'diverged': {'loss': None, 'peak': [None, 1.0]},
    'note': 'größer',
  }
  data = curves.read_bytes()
  assert data[:8] == b'\x89PNG\r\n\x1a\n'
  assert struct.unpack('>II', data[16:24]) == (1800, 840)
  write_report(tmp_path, {})
  assert json.loads(report.read_text()) == {}
  assert not list(tmp_path.glob('.*'))


def test_failures_leave_the_old_report(tmp_path):
  _write_metrics(tmp_path, [1])
  report, _ = write_report(tmp_path, {'top1': 0.5})
  with pytest.raises(TypeError):
    write_report(tmp_path, {'top1': object()})
  assert json.loads(report.read_text()) == {'top1': 0.5}
  with pytest.raises(FileNotFoundError):
    write_report(tmp_path / 'absent', {})
