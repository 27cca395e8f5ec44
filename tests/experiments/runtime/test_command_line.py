"""Flags that cannot be used, and hardware that is not there: one sentence each."""

import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs import base
from experiments.runtime import command_line
from nfnets import host_memory, installation

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize(
  ('argument', 'sentence'),
  [
    ('--config.seed=many', '--config.seed must be a whole number, got many.'),
    ('--config.seed=1.5', '--config.seed must be a whole number, got 1.5.'),
    ('--config.model.num_classes=x', '--config.model.num_classes must be a whole number, got x.'),
    ('--config.num_epochs=long', '--config.num_epochs must be a number, got long.'),
    ('--config.data.flip=maybe', '--config.data.flip must be True or False, got maybe.'),
    ('--config.model=3', '--config.model must be a dictionary in quotes, such as \'{"name": 1}\','),
    ('--config.seed', 'Missing value for flag --config.seed: --help lists the flags,'),
    ('--sed=1', "Unknown command line flag 'sed': --help lists the flags, configs/base.py"),
    ('--number=', '--number must be a whole number, got .'),
  ],
)
def test_what_is_wrong_with_a_flag(monkeypatch, argument, sentence):
  monkeypatch.setattr(sys, 'argv', ['program', argument])  # says which fields become flags
  values = flags.FlagValues()
  config_flags.DEFINE_config_dict('config', base.get_config(), flag_values=values)
  flags.DEFINE_integer('number', 1, 'For this test.', flag_values=values)
  with pytest.raises(flags.Error) as caught:
    values(sys.argv)
  assert command_line.flag_problem(caught.value).startswith(sentence)


def run(program, *arguments, platforms='cpu'):
  return subprocess.run(
    [sys.executable, *program, *arguments],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': platforms, 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )


def test_a_field_that_is_none_without_a_config(tmp_path):
  done = run(['-m', 'experiments.train'], '--config.data.cropp=none', f'--workdir={tmp_path / "r"}')
  assert done.returncode == 2
  (line,) = (line for line in done.stderr.splitlines() if line.startswith('Error'))
  assert line == (
    "Error: the config has no field 'cropp': configs/base.py lists all fields. Did you mean 'crop'?"
  )
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('platform', ['cuda', 'tpu', 'gpu', 'nonsense'])
def test_hardware_that_is_not_there(tmp_path, platform):
  if platform == 'nonsense':
    program = ['-m', 'experiments.train', f'--workdir={tmp_path / "run"}']
  else:
    program = ['scripts/show_batch.py', f'--out={tmp_path / "sheet.png"}']
  done = run(program, platforms=platform)
  if done.returncode == 0:
    pytest.skip(f'this machine has {platform}')
  assert done.returncode == 1
  assert f'Error: JAX_PLATFORMS={platform} asks for hardware that JAX does not find' in done.stderr
  assert 'set JAX_PLATFORMS=' in done.stderr
  assert 'Traceback' not in done.stderr
  assert not list(tmp_path.iterdir())


_LOOK = """
import logging
from jax._src import hardware_utils
hardware_utils.has_visible_nvidia_gpu = lambda: {gpu}
hardware_utils.num_available_tpu_chips_and_device_id = lambda: ({tpus}, None)
import jax
from experiments.runtime import platforms
logging.getLogger('jax').setLevel(logging.ERROR)
with platforms.explained():
  assert jax.default_backend() == 'cpu'
"""


@pytest.mark.skipif(host_memory.accelerator_is_installed(), reason='JAX would use the accelerator')
@pytest.mark.parametrize(
  ('gpu', 'tpus', 'platforms', 'line'),
  [
    (True, 0, '', "has an NVIDIA GPU as well. To use it: {pip} install -e '.[gpu]'\n"),
    (False, 4, '', "has a TPU as well. To use it: {pip} install -e '.[tpu]'\n"),
    (True, 0, 'cpu', ''),  # as it was asked for
    (False, 0, '', ''),
  ],
)
def test_an_accelerator_that_is_left_unused(gpu, tpus, platforms, line):
  done = run(['-c', _LOOK.format(gpu=gpu, tpus=tpus)], platforms=platforms)
  start = 'JAX runs on the CPU of this machine, which '
  pip = installation.command('gpu').partition(' ')[0]
  assert done.stderr == (f'{start}{line.format(pip=pip)}' if line else '')


@pytest.mark.parametrize('flag', ['--help', '-h', '--helpfull', '--helpshort'])
def test_help_is_no_error(flag):
  done = run(['scripts/show_batch.py'], flag)
  assert (done.returncode, done.stderr) == (0, '')
  assert '--config' in done.stdout
  if flag in ('--help', '-h'):
    assert done.stdout.startswith('Draws a training batch as the network sees it')
    assert "(default: 'digits')" in done.stdout
    assert '--[no]debug' in done.stdout
    assert done.stdout.count('configs/base.py') == 1


@pytest.mark.parametrize('words', [['--config=digit'], ['--config', 'digit'], ['-config=digit']])
def test_a_recipe_that_is_not_there(words):
  done = run(['scripts/show_batch.py'], *words)
  assert done.returncode == 2
  assert done.stderr.startswith('Error: there is no config file digit: those that come with')
  assert done.stderr.endswith('Did you mean --config=digits?\n')


SPEC = "--config.model.spec={'width': (16,), 'depth': (1,), 'stride': (1,), 'train_size': 16}"


@pytest.mark.parametrize(
  ('arguments', 'variant', 'widths'),
  [
    ([], 'custom', (32, 64, 96, 96)),
    (['--config.model.variant=F0'], 'F0', None),
    (['--config=nfnet_imagenet:F1', SPEC], 'custom', (16,)),
    ([SPEC], 'custom', (16,)),
    (['--config.model.variant=F0', SPEC], 'F0', (16,)),  # which `settings` refuses
    (['--config.model.variant=custom'], 'custom', None),
  ],
)
def test_a_flag_takes_the_place_of_what_the_recipe_says_elsewhere(arguments, variant, widths):
  program = (
    'from experiments.runtime import command_line\n'
    "c = command_line.define_config('digits', '')\n"
    'def main():\n'
    "  print(c.value.model.variant, c.value.model.spec.get('width'))\n"
    'command_line.run(main)\n'
  )
  done = run(['-c', program], *arguments)
  assert done.stdout.strip() == f'{variant} {widths}', done.stderr
