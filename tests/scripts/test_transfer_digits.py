"""What the comparison of the digits keeps, and what it does not use again."""

import json

import pytest


@pytest.fixture
def run(load_script, monkeypatch, tmp_path, capsys):
  """(*arguments) -> what was trained: (folder, epochs); the rest is as it is."""
  script = load_script('transfer_digits')
  trained = []

  def train(config, workdir):
    trained.append((str(workdir.relative_to(tmp_path)), config.num_epochs, config.data.dir))
    workdir.mkdir(parents=True)
    (workdir / 'report.json').write_text(json.dumps({'top1': 0.5, 'top1_ema': 0.25}))

  monkeypatch.setattr(script.train, 'train', train)

  def call(*arguments):
    trained.clear()
    assert script.main(['--out', str(tmp_path), '--seeds', '1', *arguments]) == 0
    return list(trained), capsys.readouterr().out

  return call


def test_runs_of_other_arguments_are_not_used(run, tmp_path):
  first, said = run('--epochs', '2', '--per-class', '3')
  assert [epochs for _, epochs, _ in first] == [12.0, 2.0, 2.0, 2.0]
  assert f'Wrote {tmp_path}/3_pictures_2_epochs/transfer.json.' in said
  assert run('--epochs', '2', '--per-class', '3')[0] == []
  longer, _ = run('--epochs', '2.5', '--per-class', '3')
  assert [epochs for _, epochs, _ in longer] == [2.5, 2.5, 2.5]  # the trunk is the same
  more, _ = run('--epochs', '2', '--per-class', '4')
  folders = {folder for runs in (first, longer, more) for folder, _, _ in runs}
  assert len(folders) == len(first) + len(longer) + len(more)
  pictures = more[-1][-1]
  assert sorted(p.name for p in tmp_path.glob('4_*/digits_5_9/train/*')) == list('56789')
  assert len(list(tmp_path.glob('4_*/digits_5_9/train/7/*.png'))) == 4
  assert pictures == str(tmp_path / '4_pictures_2_epochs' / 'digits_5_9')


@pytest.mark.parametrize('arguments', [('--seeds', '0'), ('--per-class', '140'), ('--epochs', '0')])
def test_wrong_arguments(load_script, tmp_path, arguments):
  with pytest.raises(SystemExit) as error:
    load_script('transfer_digits').main(['--out', str(tmp_path / 'new'), *arguments])
  assert error.value.code == 2
  assert not (tmp_path / 'new').exists()
