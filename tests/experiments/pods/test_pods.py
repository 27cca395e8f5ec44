"""Planning a pod: reading a compiled program, the arithmetic, the kept figures, the errors."""

import importlib.util
import math
import os
import pathlib
import subprocess
import sys

import pytest

from configs import nfnet_imagenet
from experiments.data import DatasetInfo
from experiments.pods import chips, costs, plan, program
from experiments.runtime.errors import ConfigError
from experiments.training import settings

GIB = 2**30
ROOT = pathlib.Path(__file__).parents[3]

# Made by hand, in the form of a compiled module's text: 100 + 40 cycles, and a loop of 3 times 7.
TEXT = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%fused (p.1: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0:T(128)} parameter(0)
  ROOT %m.1 = f32[8]{0:T(128)} multiply(%p.1, %p.1), backend_config={"estimated_cycles":"9999"}
}

%body.2 (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %f.2 = (s32[], f32[8]{0}) fusion(%arg), kind=kLoop, backend_config={"estimated_cycles":"7"}
}

ENTRY %main.9_spmd (param.0: f32[8]) -> f32[8] {
  %param.0 = f32[8]{0:T(128)} parameter(0), metadata={op_name="x"}
  %fusion.1 = f32[8]{0:T(128)} fusion(%param.0), calls=%fused, backend_config={"estimated_cycles":"100"}
  %pair = (s32[], f32[8]{0}) tuple(%param.0, %fusion.1)
  %while.3 = (s32[], f32[8]{0}) while(%pair), condition=%c, body=%body.2, backend_config={"known_trip_count":{"n":"3"}}
  %part = f32[8]{0} get-tuple-element(%while.3), index=1
  %sum.4 = f32[8]{0:T(128)} all-reduce(%part), channel_id=1, to_apply=%add
  ROOT %fusion.5 = f32[8]{0:T(128)} fusion(%sum.4), calls=%fused, backend_config={"estimated_cycles":"40"}
}
"""  # noqa: E501


def test_cycles_and_operations_of_a_compiled_text():
  assert costs.read_text(TEXT) == (100 + 3 * 7 + 40, 7, 4)


SENT = """
  %sum.4 = f32[8]{0:T(128)} all-reduce(%part), channel_id=1, replica_groups={{0,1}}, to_apply=%add
  %s.5 = (f32[3,10]{1,0}, s32[]{:T(128)}) all-reduce-start(%a, %b), to_apply=%add
  %d.5 = (f32[3,10]{1,0}, s32[]{:T(128)}) all-reduce-done(%s.5)
  %r.6 = f32[3,2]{1,0:T(8,128)} reduce-scatter(%g), replica_groups={{0,1,2,3}}, dimensions={1}
  %r.7 = f32[3,2]{1,0} reduce-scatter(%g), replica_groups=[1,8]<=[8], dimensions={1}
  %g.8 = bf16[3,2,16]{1,0,2:T(8,128)(2,1)} all-gather(%r), dimensions={2}
  %g.9 = (bf16[3,2]{1,0}, bf16[3,16]{1,0}) all-gather-start(%r), dimensions={1}
"""


def test_what_is_sent_around_by_hand():
  assert costs.read_collectives(TEXT) == {'all-reduce': 32, 'reduce-scatter': 0, 'all-gather': 0}
  assert costs.read_collectives(SENT) == {
    'all-reduce': 32 + 120 + 4,
    'reduce-scatter': 4 * 24 + 8 * 24,
    'all-gather': 192 + 96,
  }


def test_a_text_without_an_entry_is_refused():
  with pytest.raises(ValueError, match='no entry computation'):
    costs.read_text('HloModule nothing\n')


@pytest.mark.parametrize(
  'message',
  [
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 21.50G of 15.48G hbm. '
    'Exceeded hbm capacity by 6.02G.',
    'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries '
    '(21.50G) exceeds available HBM (15.48G).',
  ],
)
def test_the_compilers_refusal_is_read(message):
  assert costs.needed_memory(message) == 21.5 * GIB


def test_another_error_is_no_refusal():
  assert costs.needed_memory('INTERNAL: something else') is None


def costs_of(batch, *, fixed=2 * GIB, slope=GIB // 8, cycles_per_image=2_000_000):
  return costs.Costs(
    flops=4e10 * batch,
    bytes_accessed=4e8 * batch,
    argument_bytes=fixed,
    output_bytes=0,
    temporary_bytes=slope * batch,
    code_bytes=0,
    cycles=cycles_per_image * batch,
    optimal_seconds=None,
    operations=1000,
    launched=500,
    all_reduce_bytes=400_000_000,
  )


def estimate_of(batch, topology='v3:4x4', **kwargs):
  one = costs_of(batch, **kwargs)
  return plan.Estimate(chips.parse_topology(topology), batch, one, one.memory)


def test_arithmetic_by_hand():
  one = estimate_of(32)
  assert one.global_batch == 1024  # 4 x 4 chips of two cores
  assert one.memory == 6 * GIB
  assert one.fits
  assert one.step_seconds == pytest.approx(64e6 / 940e6)
  rate = 1024 / (64e6 / 940e6)
  assert one.images_per_second() == pytest.approx(rate)
  assert one.hours(360, 1_281_167) == pytest.approx(360 * 1_281_167 / rate / 3600)
  assert one.host_images_per_second() == pytest.approx(rate / 4)  # four chips to a host
  assert one.floor_seconds == pytest.approx(4e10 * 32 / 61.5e12)
  assert one.all_reduce_seconds == pytest.approx(2 * 15 / 16 * 4e8 / 328e9)
  assert one.all_gather_seconds == 0
  assert chips.gather_seconds(4e8, one.topology) == pytest.approx(15 / 16 * 4e8 / 328e9)
  assert not estimate_of(108).fits  # 2 + 108 / 8 > 16 - 0.52


def test_without_a_published_clock_there_is_no_time():
  one = estimate_of(32, 'v6e:4x4')
  assert math.isnan(one.topology.chip.clock)
  assert one.step_seconds is one.images_per_second() is one.hours(1, 1) is None
  assert one.floor_seconds > 0


@pytest.mark.parametrize('first', [8, 32, 200, 4000])
@pytest.mark.parametrize('slope', [GIB // 8, GIB, 3 * GIB])
def test_the_largest_batch_is_found_with_few_compilations(first, slope):
  tried = []

  def estimate(batch):
    tried.append(batch)
    return estimate_of(batch, slope=slope)

  found = plan.largest_batch(estimate, estimate(first), multiple=4)
  assert found.batch == 13.48 * GIB // slope // 4 * 4
  assert len(tried) <= 6
  assert len(set(tried)) == len(tried)


def test_no_batch_fits():
  assert plan.largest_batch(lambda b: estimate_of(b, fixed=20 * GIB), estimate_of(8, fixed=20 * GIB)) is None  # noqa: E501  # fmt: skip


def test_topologies():
  topology = chips.parse_topology('v5p:4x4x4')
  assert (topology.num_devices, topology.num_hosts, topology.smallest.name) == (64, 16, 'v5p:2x2x1')
  assert chips.parse_topology('v3:4x4').num_devices == 32
  for name, sentence in (
    ('v9:2x2', "the topology 'v9:2x2' is unknown: write a chip and its shape"),
    ('v3', "the topology 'v3' is unknown"),
    ('v5p:4x4', "'v5p:4x4' has 2 sides, but a slice of v5p has 3, such as v5p:2x2x1"),
  ):
    with pytest.raises(ConfigError, match=sentence):
      chips.parse_topology(name)


def test_batches_that_cannot_be_shared():
  topology = chips.parse_topology('v3:4x4')
  assert plan.per_device_batch(4096, topology) == 128
  with pytest.raises(ConfigError, match='batch of 100 equally: 96 or 128 would do'):
    plan.per_device_batch(100, topology)
  with pytest.raises(ConfigError, match='batch of 8 equally'):
    plan.per_device_batch(8, topology)


def planner(tmp_path, compile_costs, topology='v3:4x4', **fields):
  config = nfnet_imagenet.get_config('F0')
  config.global_batch_size = 1024
  config.update(fields)
  return plan.Planner(
    settings.read(config, DatasetInfo(1_000_000, 0, 1000, ()), backend='tpu'),
    chips.parse_topology(topology),
    say=lambda line: None,
    cache=tmp_path,
    compile_costs=compile_costs,
  )


def test_figures_are_kept_by_program(tmp_path):
  compiled = []

  def compile_costs(run, topology, batch, **kwargs):
    compiled.append((topology.name, batch))
    if batch > 64:
      raise program.TooLargeError(30 * GIB)
    return costs_of(batch)

  whole = {'optimizer': {'sharded_update': 'off'}}
  first = planner(tmp_path, compile_costs, **whole).estimate(32)
  # The same program for a longer run, and on a larger slice; kept by another object.
  again = planner(tmp_path, compile_costs, 'v3:8x8', num_epochs=90.0, **whole).estimate(32)
  assert compiled == [('v3:2x2', 32)]
  assert again.costs == first.costs
  assert (again.global_batch, first.global_batch) == (32 * 128, 32 * 32)

  planner(tmp_path, compile_costs, compute_dtype='float32', **whole).estimate(32)
  planner(tmp_path, compile_costs, 'v2:4x4', **whole).estimate(32)
  assert len(compiled) == 3
  for _ in range(2):  # what does not fit is kept as well
    one = planner(tmp_path, compile_costs, **whole).estimate(128)
    assert (one.fits, one.memory, one.step_seconds) == (False, 30 * GIB, None)
  assert len(compiled) == 4


def test_a_shared_out_update_is_another_program_in_every_slice(tmp_path):
  compiled = []

  def compile_costs(run, topology, batch, **kwargs):
    compiled.append((topology.name, run.sharded_update))
    return costs_of(batch)

  for topology in ('v3:4x4', 'v3:8x8', 'v3:4x4', 'v5e:1x1'):
    planner(tmp_path, compile_costs, topology).estimate(32)
  assert compiled == [('v3:4x4', 'auto'), ('v3:8x8', 'auto'), ('v5e:2x2', 'off')]


def test_a_missing_compiler_is_one_sentence(monkeypatch):
  monkeypatch.setitem(sys.modules, 'libtpu', None)
  with pytest.raises(ConfigError, match='the TPU compiler is not installed: .*tpu'):
    program.describe(chips.parse_topology('v3:2x2'))


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason='needs the extra tpu')
def test_a_small_network_is_compiled_for_a_pod(tmp_path):
  command = [
    sys.executable, 'scripts/plan_pod.py', '--config=tests/experiments/tiny_config.py',
    '--topology=v3:2x2', '--batch=64', '--host_rate=1000',
  ]  # fmt: skip
  environment = {**os.environ, 'NFNETS_CACHE': str(tmp_path), 'JAX_PLATFORMS': 'cpu',
                 'PYTHONPATH': os.pathsep.join(['.', *sys.path])}  # fmt: skip
  done = subprocess.run(
    command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
  )
  assert done.returncode == 0, done.stderr
  assert 'batch 64 = 8 per device' in done.stdout
  assert 'fits (state and batch' in done.stdout
  assert 'MHz' in done.stdout
  assert 'compiling' in done.stderr
  assert len(list((tmp_path / 'pods').glob('*.json'))) == 1
