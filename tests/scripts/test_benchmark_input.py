"""scripts/benchmark_input.py on a few small pictures."""

import importlib.util
import json

import numpy as np
import PIL.Image
import pytest


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  for i in range(40):
    place = tmp_path / f'pictures/class{i % 2}/{i}.jpg'
    place.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(place)
  return tmp_path / 'pictures'


def test_table_and_file(run_script, folder, tmp_path):
  out = tmp_path / 'input.json'
  arguments = ['--sizes', 32, '--rounds', 2, '--batches', 1, '--out', out]
  done = run_script('benchmark_input', folder, *arguments)
  assert done.returncode == 0, done.stderr
  assert [line.split()[:2] for line in done.stdout.splitlines()[1:]] == [
    ['32', 'plain'], ['32', 'randaugment'], ['32', 'published'],
  ]  # fmt: skip
  results = json.loads(out.read_text())['results']
  loaders = (
    {'nfnets', 'opencv', 'timm', 'timm, bytes'}
    if importlib.util.find_spec('timm')
    else {'nfnets', 'opencv'}
  )
  assert {row['loader'] for row in results} == loaders
  for row in results:
    assert len(row['rounds']) == 2
    assert row['images_per_cpu_second'] > 0


def test_cores_and_what_is_needed(run_script, folder, tmp_path):
  out = tmp_path / 'input.json'
  arguments = ['--sizes', 32, '--rounds', 1, '--batches', 1, '--cores', 2, '--needed', 100_000]
  done = run_script('benchmark_input', folder, *arguments, '--out', out)
  assert done.returncode == 0, done.stderr
  lines = [line.split() for line in done.stdout.splitlines()[4:]]
  assert [' '.join(line[:3]).rstrip(':') for line in lines[:4]] == [
    '32 1 threads', '32 2 threads', '32 1 processes', '32 2 processes',
  ]  # fmt: skip
  figures = json.loads(out.read_text())
  assert [(row['threads'], row['processes']) for row in figures['scaling']] == [
    (1, 0), (2, 0), (1, 1), (1, 2),
  ]  # fmt: skip
  rates = {
    row['recipe']: row['images_per_cpu_second']
    for row in figures['results']
    if row['loader'] == 'nfnets'
  }
  for line in lines[4:]:
    recipe, cores = line[1].rstrip(':'), int(line[5])
    assert (cores - 1) * rates[recipe] < 100_000 <= cores * rates[recipe]
  assert len(lines) == 7


def test_a_missing_folder_is_one_sentence(run_script, tmp_path):
  done = run_script('benchmark_input', tmp_path / 'missing')
  assert done.returncode == 1
  assert 'does not exist' in done.stderr
  assert 'Traceback' not in done.stderr
