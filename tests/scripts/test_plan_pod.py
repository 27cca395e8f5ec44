"""What `plan_pod.py` says of its figures, and of questions that have no answer."""

import io

import numpy as np
import PIL.Image
import pytest

from configs import nfnet_imagenet
from experiments.data import DatasetInfo
from experiments.pods import chips, costs, plan
from experiments.training import settings

GIB = 2**30


@pytest.fixture
def plan_pod(load_script):
  return load_script('plan_pod')


@pytest.fixture
def run():
  info = DatasetInfo(1_024_000, 0, 1000, ())
  return settings.read(nfnet_imagenet.get_config('F0'), info, backend='tpu')


def estimate(topology='v3:4x4', batch=32, memory=8 * GIB):
  one = costs.Costs(
    flops=1.5e12,
    bytes_accessed=11e9,
    argument_bytes=GIB,
    output_bytes=0,
    temporary_bytes=memory - GIB,
    code_bytes=0,
    cycles=47_000_000,
    optimal_seconds=None,
    operations=900,
    launched=700,
    all_reduce_bytes=328_000_000,
    all_gather_bytes=164_000_000,
  )
  return plan.Estimate(chips.parse_topology(topology), batch, one, memory)


def test_the_report_by_hand(plan_pod, run):
  text = plan_pod.report(estimate(), run, host_rate=1000.0)
  assert 'batch 1024 = 32 per device' in text
  assert '8.00 of 15.48 GiB per device: fits' in text
  assert 'estimate   50.0 ms per step: 47,000,000 cycles at 940 MHz' in text
  assert 'estimate / published 0.68' in text  # 50 / 73.3
  assert 'all-reduce 1.88 ms' in text  # 2 * 15 / 16 * 328 MB / 328 GB/s
  assert 'all-gather 0.47 ms' in text  # 15 / 16 * 164 MB / 328 GB/s
  assert 'scatter' not in text
  assert '20,480 images/s, 5.0 hours for 360 epochs' in text  # 360 * 1,024,000 / 20,480 s
  assert 'each host has to prepare 5,120 images/s' in text
  assert '5.1 times too slow' in text


def test_what_cannot_be_said_is_not_said(plan_pod, run):
  text = plan_pod.report(estimate('v6e:4x4'), run, host_rate=None)
  assert 'estimate   none: for v6e' in text
  assert 'hours' not in text
  text = plan_pod.report(estimate(batch=64), run, host_rate=None)
  assert 'published' not in text  # the paper's figure is for 32 per core
  too_large = plan.Estimate(chips.parse_topology('v3:4x4'), 32, None, 20 * GIB)
  text = plan_pod.report(too_large, run, host_rate=None)
  assert 'at least 20.00 of 15.48 GiB per device: DOES NOT FIT\nto fit     --largest' in text


@pytest.mark.parametrize('topology', ['v3:4x4', 'v6e:2x2'])  # of v6e no time is known
def test_the_sweep_is_a_picture(plan_pod, topology):
  picture = plan_pod.draw([estimate(topology, batch=8), estimate(topology, batch=16)], 'F0')
  assert picture.startswith(b'\x89PNG')


def test_the_sweep_has_nothing_at_its_edge(plan_pod):
  picture = plan_pod.draw([estimate(batch=8), estimate(batch=16)], 'F0 on v3')
  pixels = np.asarray(PIL.Image.open(io.BytesIO(picture)).convert('L'))
  for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
    assert (edge == 255).all()


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['--topology=v9:2x2'], "Error: the topology 'v9:2x2' is unknown"),
    (['--topology=v3:4x4', '--batch=33'], 'cannot share a batch of 33 equally: 32 or 64 would do'),
    # A recipe that leaves the batch to the number of pictures.
    (['--config=image_folder', '--topology=v3:8x8'], 'cannot share a batch of 64 equally: 128 or'),
  ],
)
def test_bad_questions_are_one_sentence(run_script, arguments, sentence):
  done = run_script('plan_pod', *arguments)
  assert done.returncode == 1
  assert sentence in done.stderr
  assert 'Traceback' not in done.stderr
