"""Compiled programs on disk: where, when not, and that they compute the same."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from configs import digits
from experiments import evaluate
from experiments.runtime import command_line, compilation_cache
from nfnets import weights

_OPTIONS = (
  'jax_enable_compilation_cache',
  'jax_compilation_cache_dir',
  'jax_compilation_cache_max_size',
  'jax_persistent_cache_min_compile_time_secs',
)


@pytest.fixture
def hits():
  """JAX without a cache yet, keeping everything when it has one; returns the events of its hits."""
  before = {name: getattr(jax.config, name) for name in _OPTIONS}
  events = []

  def listen(event, **_):
    if event == '/jax/compilation_cache/cache_hits':
      events.append(event)

  jax.config.update('jax_compilation_cache_dir', None)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax_cache.reset_cache()
  jax.monitoring.register_event_listener(listen)
  yield events
  jax.monitoring.unregister_event_listener(listen)
  for name, value in before.items():
    jax.config.update(name, value)
  jax_cache.reset_cache()


def average_of_devices():
  """Compiles a collective, as the train step has, and runs it."""
  devices = jax.local_device_count()
  x = jnp.arange(6.0 * devices).reshape(devices, 6)
  program = jax.pmap(lambda x: jax.lax.pmean(jnp.sin(x), 'devices'), 'devices')
  return np.asarray(program(x))


def test_programs_are_kept_with_the_downloads(hits, monkeypatch, tmp_path):
  monkeypatch.setenv('NFNETS_CACHE', str(tmp_path))
  folder = compilation_cache.enable()
  assert folder.parent == tmp_path / 'compiled'
  assert folder.stat().st_mode & 0o077 == 0  # of this user alone
  first = average_of_devices()
  kept = {path.name for path in folder.iterdir()}
  assert any(name.endswith('-cache') for name in kept)
  assert not hits
  second = average_of_devices()  # a new function with the same program
  assert hits
  assert {path.name for path in folder.iterdir()} == kept
  assert second.tobytes() == first.tobytes()


def test_damaged_programs_are_compiled_again(hits, tmp_path):
  folder = compilation_cache.enable(tmp_path)
  first = average_of_devices()
  for path in folder.glob('*-cache'):
    path.write_bytes(b'damaged')
  with pytest.warns(UserWarning, match='persistent compilation cache'):
    second = average_of_devices()
  assert not hits
  assert second.tobytes() == first.tobytes()


def test_least_recently_used_programs_make_room(hits, monkeypatch, tmp_path):
  monkeypatch.setattr(compilation_cache, 'MAX_BYTES', 20_000)
  folder = compilation_cache.enable(tmp_path)
  total = 0
  for i in range(12):
    jax.jit(lambda x, i=i: jnp.tanh(x) * i)(jnp.ones(3)).block_until_ready()
    sizes = [path.stat().st_size for path in folder.glob('*-cache')]
    assert sum(sizes) <= 20_000
    total = max(total, len(sizes))
  assert 1 <= total < 12


def test_none_keeps_nothing(hits, tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  assert compilation_cache.enable('none') is None
  average_of_devices()
  assert not list(tmp_path.iterdir())


def test_what_jax_was_told_holds_unless_there_is_a_directory(hits, tmp_path):
  jax.config.update('jax_compilation_cache_dir', str(tmp_path / 'theirs'))
  size = jax.config.jax_compilation_cache_max_size
  assert compilation_cache.enable('') == tmp_path / 'theirs'
  assert jax.config.jax_compilation_cache_max_size == size
  assert compilation_cache.enable(tmp_path / 'ours').parent == tmp_path / 'ours'


def test_several_processes_need_a_directory(hits, monkeypatch, tmp_path):
  monkeypatch.setenv('NFNETS_CACHE', str(tmp_path))
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  assert compilation_cache.enable() is None
  assert jax.config.jax_compilation_cache_dir is None
  assert compilation_cache.enable(tmp_path / 'shared') is not None


def test_a_folder_that_cannot_be_written_is_one_warning(hits, capsys, tmp_path):
  (tmp_path / 'file').write_text('')
  assert compilation_cache.enable(tmp_path / 'file') is None
  average_of_devices()
  output = capsys.readouterr().err
  assert 'Compiled programs are not kept' in output
  assert output.count('\n') == 1


def test_without_filelock_nothing_is_kept(hits, capsys, monkeypatch, tmp_path):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda name: None if name == 'filelock' else find_spec(name)
  )
  assert compilation_cache.enable(tmp_path) is None
  assert 'filelock' in capsys.readouterr().err


def test_processors_with_other_instructions_share_nothing(monkeypatch):
  def key(text):
    monkeypatch.setattr(pathlib.Path, 'read_text', lambda *_, **__: text)
    return compilation_cache.processor_key()

  here = key('model name\t: A\ncpu MHz\t: 1\nflags\t: fpu avx2\n')
  assert key('model name\t: A\ncpu MHz\t: 2\nflags\t: fpu avx2\n') == here
  assert key('model name\t: A\ncpu MHz\t: 1\nflags\t: fpu avx2 avx512f\n') != here
  assert key('model name\t: B\ncpu MHz\t: 1\nflags\t: fpu avx2\n') != here


def test_the_field_of_a_config_says_where(hits, capsys, monkeypatch, tmp_path):
  monkeypatch.setattr(evaluate, 'evaluate_file', lambda *_: {'top1': 1.0})
  monkeypatch.setattr(command_line, 'given_fields', lambda *_: frozenset())  # no command line
  config = digits.get_config()
  config.compilation_cache = str(tmp_path)
  flags.FLAGS.mark_as_parsed()
  evaluate.report(config, 'file', '--weights')
  assert pathlib.Path(jax.config.jax_compilation_cache_dir).parent == tmp_path
  assert 'top1' in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_kept_programs_equals_one_without(train, tmp_path):
  # Dropout, stochastic depth, clipping, averaging over two devices: every program of a run.
  options = ('--config.num_epochs=0.1', f'--config.compilation_cache={tmp_path / "programs"}')
  runs = [tmp_path / 'cold', tmp_path / 'warm']
  for workdir in runs:
    train(workdir, *options, devices=2)
  folder = next((tmp_path / 'programs').iterdir())
  programs = [path for path in folder.glob('*-cache') if path.name.startswith('jit__fun')]
  assert len(programs) == 3  # of pmap: the steps of training, of evaluation and of prediction
  cold, warm = (weights.load(workdir / 'ema_weights.safetensors')[0] for workdir in runs)
  for module, leaves in cold.items():
    for name, value in leaves.items():
      assert value.tobytes() == warm[module][name].tobytes(), f'{module}/{name}'
