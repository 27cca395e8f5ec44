"""Whether a run may go on in a directory."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import cv2
import numpy as np
import pytest

from configs import base
from experiments import data
from experiments.data.sources import packed_folder
from experiments.runtime.errors import CheckpointError
from experiments.training import work_directory
from experiments.training.work_directory import WorkDirectory


@pytest.fixture
def pictures(tmp_path):
  """Two classes of three training pictures and one test picture."""
  for part, count in (('train', 3), ('test', 1)):
    for kind in ('cat', 'dog'):
      place = tmp_path / 'pictures' / part / kind
      place.mkdir(parents=True)
      for i in range(count):
        cv2.imwrite(str(place / f'{i}.png'), np.zeros((8, 8, 3), np.uint8))
  return tmp_path / 'pictures'


def directory(path, place='', **fields):
  """The work directory of a run on a folder of pictures, or else on two random pictures."""
  config = base.get_config()
  source = {'source': 'folder'} if place else {'source': 'synthetic', 'num_examples': 2}
  sizes = {'image_size': 8, 'eval_image_size': 8, 'eval_batch_size': 1}
  config.data.update({**source, **sizes, 'dir': str(place), 'num_classes': 2})
  config.update_from_flattened_dict(fields)
  settings = data.DataSettings.from_config(config)
  identity = data.describe(settings).identity
  return WorkDirectory(path, config.to_dict(), settings, identity)


def claim(owned):
  with owned.opened():
    owned.claim()


def files(place):
  return {p.name: p.read_bytes() for p in place.iterdir() if p.name != work_directory.LOCK_NAME}


def test_a_run_goes_on_if_it_computes_the_same(tmp_path):
  claim(directory(tmp_path / 'run'))
  claim(directory(tmp_path / 'run', log_every_steps=7))
  fields = {'seed': 1, 'data.num_threads': 1, 'data.flip': False}
  with pytest.raises(
    CheckpointError, match=r'\(--config.data.flip: True -> False; --config.seed: 0 -> 1\)'
  ):
    claim(directory(tmp_path / 'run', **fields))


def test_a_run_that_is_older_than_a_field_goes_on_at_its_default(tmp_path):
  claim(directory(tmp_path / 'run'))
  path = tmp_path / 'run' / work_directory.CONFIG_NAME
  config = json.loads(path.read_text())
  del config['data']['flip'], config['private']
  path.write_text(json.dumps(config))
  claim(directory(tmp_path / 'run'))
  with pytest.raises(CheckpointError, match=r'\(--config.data.flip: True -> False\)'):
    claim(directory(tmp_path / 'run', **{'data.flip': False}))


@pytest.mark.parametrize('content', ['{', '[]', '3'])
def test_a_config_that_cannot_be_read_is_one_sentence(tmp_path, content):
  (tmp_path / 'config.json').write_text(content)
  with pytest.raises(CheckpointError, match='is not readable as JSON'):
    claim(directory(tmp_path))


def test_every_field_that_may_differ_is_one():
  for path in work_directory.NEUTRAL_FIELDS:
    node = base.get_config()
    for name in path.split('.'):
      assert name in node, path
      node = node[name]


def test_a_directory_is_nobodys_until_it_is_claimed(tmp_path):
  with directory(tmp_path / 'run', seed=1).opened():
    (tmp_path / 'run/checkpoints').mkdir()  # as Orbax does, long before there is one
  claim(directory(tmp_path / 'run', seed=2))
  with pytest.raises(CheckpointError, match='seed: 2 -> 1'):
    claim(directory(tmp_path / 'run', seed=1))


def test_the_same_pictures_in_another_folder_go_on(tmp_path, pictures):
  claim(directory(tmp_path / 'run', pictures))
  moved = pictures.rename(tmp_path / 'moved')
  claim(directory(tmp_path / 'run', moved))
  packed_folder.pack(str(moved), str(tmp_path / 'packed'))
  claim(directory(tmp_path / 'run', tmp_path / 'packed'))


def rename_class(pictures):
  for part in ('train', 'test'):
    (pictures / part / 'dog').rename(pictures / part / 'wolf')


def add_pictures(pictures):
  for name in 'abcd':
    shutil.copy(pictures / 'train/cat/0.png', pictures / f'train/cat/{name}.png')


def remove_and_add(pictures):
  (pictures / 'test/cat/0.png').rename(pictures / 'test/cat/9.png')


def add_class(pictures):
  shutil.copytree(pictures / 'train/dog', pictures / 'train/owl')


def move_to_the_other_class(pictures):
  (pictures / 'train/cat/2.png').rename(pictures / 'train/dog/3.png')


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (rename_class, r"these are without the class 'dog'; with the new class 'wolf'\."),
    (add_class, r"these are with the new class 'owl'\."),
    (
      add_pictures,
      r"6 -> 10 training pictures \(4 added, such as 'train/cat/a.png'\)\. Give the run the data",
    ),
    (
      remove_and_add,
      r'2 -> 2 test pictures '
      r"\(1 gone, such as 'test/cat/0.png'; 1 added, such as 'test/cat/9.png'\)\.",
    ),
    (move_to_the_other_class, r"6 -> 6 training pictures \(1 gone, such as 'train/cat/2.png'; "),
  ],
)
def test_other_data_are_one_sentence_and_nothing_is_touched(tmp_path, pictures, change, sentence):
  claim(directory(tmp_path / 'run', pictures))
  before = files(tmp_path / 'run')
  change(pictures)
  with pytest.raises(CheckpointError, match=sentence):
    claim(directory(tmp_path / 'run', pictures))
  assert files(tmp_path / 'run') == before


def test_without_the_names_the_sentence_has_no_example(tmp_path, pictures):
  claim(directory(tmp_path / 'run', pictures))
  (tmp_path / 'run' / work_directory.NAMES_NAME).write_bytes(b'\x1f\x8b rubbish')
  add_pictures(pictures)
  with pytest.raises(CheckpointError, match='6 -> 10 training pictures'):
    claim(directory(tmp_path / 'run', pictures))


@pytest.mark.parametrize('content', ['{', '[]', '{"class_names": 3}'])
def test_a_damaged_description_of_the_data_is_one_sentence(tmp_path, content):
  claim(directory(tmp_path))
  (tmp_path / 'data.json').write_text(content)
  with pytest.raises(CheckpointError, match=r'data.json (is not readable|does not describe data)'):
    claim(directory(tmp_path))


def test_a_directory_from_before_the_data_were_written_down_is_accepted_once(
  tmp_path, pictures, capsys
):
  claim(directory(tmp_path / 'run', pictures))
  config = (tmp_path / 'run/config.json').read_bytes()
  (tmp_path / 'run/data.json').unlink()
  (tmp_path / 'run' / work_directory.NAMES_NAME).unlink()
  add_pictures(pictures)
  claim(directory(tmp_path / 'run', pictures))
  assert f'from now on it belongs to {pictures}.' in capsys.readouterr().out
  assert (tmp_path / 'run/config.json').read_bytes() == config
  assert json.loads((tmp_path / 'run/data.json').read_text())['train']['count'] == 10
  claim(directory(tmp_path / 'run', pictures))
  assert not capsys.readouterr().out
  rename_class(pictures)
  with pytest.raises(CheckpointError, match="new class 'wolf'"):
    claim(directory(tmp_path / 'run', pictures))


def test_a_second_run_is_told_who_is_at_work_until_that_process_is_dead(tmp_path):
  code = (
    'import pathlib, time\n'
    'from test_work_directory import directory\n'
    'with directory(pathlib.Path("run")).opened():\n'
    '  print("open", flush=True)\n'
    '  time.sleep(300)'
  )
  here = pathlib.Path(__file__)
  paths = os.pathsep.join(map(str, (here.parents[3], here.parent)))
  owner = subprocess.Popen(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': paths},
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert owner.stdout.readline() == 'open\n'
    owned = directory(tmp_path / 'run')
    who = f'a run is at work in .*run \\(process {owner.pid} on {socket.gethostname()}\\)'
    for _ in range(2):
      with pytest.raises(CheckpointError, match=who):
        claim(owned)
    assert not (tmp_path / 'run/config.json').exists()
  finally:
    owner.send_signal(signal.SIGKILL)
    owner.wait()
  claim(owned)
