"""scripts/pack_folder.py: arguments and messages; the packing is tested with packed_folder."""


def test_packs_and_says_so(run_script, pictures, tmp_path):
  done = run_script('pack_folder', pictures, tmp_path / 'packed')
  assert done.returncode == 0, done.stderr
  assert '2 pictures are packed in' in done.stdout
  assert '2/2' in done.stderr  # the progress bar
  assert {p.name for p in (tmp_path / 'packed').iterdir()} == {
    'index.json',
    'pictures.array_record',
  }
  again = run_script('pack_folder', pictures, tmp_path / 'packed')
  assert again.returncode == 1
  assert 'exists already' in again.stderr
  assert 'Traceback' not in again.stderr
