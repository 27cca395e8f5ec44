"""Files replaced in one move."""

import os

from experiments.runtime import atomic_files


def test_two_writers_of_one_process_number_do_not_share_a_temporary_file(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'getpid', lambda: 1)  # as in two containers on one file system
  path = tmp_path / 'config.json'

  def write_while_the_other_does(first):
    first.write_text('first')
    atomic_files.replace(path, lambda second: second.write_text('second'))
    assert path.read_text() == 'second'
    assert first.read_text() == 'first'

  assert atomic_files.replace(path, write_while_the_other_does) == path
  assert path.read_text() == 'first'
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']
