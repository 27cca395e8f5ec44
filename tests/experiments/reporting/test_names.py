"""Names from outside in pictures: no formula, any bytes, any alphabet; each picture guarded."""

import json
import os
import warnings

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

from experiments.reporting import confusion, curves, plot_style, results

NAMES = ('$\\frac{cost$', '$5 or $6', os.fsdecode(b'b\xe9b\xe9'), '猫', 'two\nlines')


def test_class_names_are_drawn_as_they_are(tmp_path):
  listed = [
    {'label': a, 'predicted': b, 'probability': 0.9, 'label_probability': 0.1}
    for a, b in zip(NAMES, NAMES[::-1], strict=True)
  ]
  pictures = [np.zeros((8, 8, 3), np.uint8)] * len(NAMES)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    matrix = confusion.draw_confusion(np.eye(len(NAMES), dtype=np.int64), NAMES)
    plot_style.save(matrix, tmp_path / 'matrix.png')
    plot_style.save(confusion.draw_mistakes(pictures, listed, wrong=5), tmp_path / 'sheet.png')
    for name in NAMES:
      plot_style.save(curves.draw_curves({}, title=name), tmp_path / 'curves.png')
  drawn = [label.get_text() for label in matrix.axes[0].get_xticklabels()]
  assert drawn[:2] == ['$\\frac{cost$', '$5 or $6']
  assert drawn[2] == 'b\\xe9b\\xe9'


def test_a_picture_that_cannot_be_drawn_is_named_and_the_others_are_written(tmp_path, caplog):
  def fails() -> Figure:
    raise RuntimeError('no such\nfont')

  drawings = {'a.png': fails, 'b.png': Figure}
  with caplog.at_level('WARNING'):
    written = results.write_pictures(tmp_path, drawings)
  assert written == [tmp_path / 'b.png']
  assert sorted(os.listdir(tmp_path)) == ['b.png']
  assert caplog.messages == [
    f'{tmp_path / "a.png"} could not be drawn (no such font); all else is written.'
  ]


def test_a_run_on_classes_with_strange_names(train, tmp_path):
  rng = np.random.default_rng(0)
  for part, count in (('train', 16), ('test', 2)):
    for i, name in enumerate(('$\\frac{cost$', os.fsdecode(b'b\xe9b\xe9'))):
      folder = tmp_path / 'pictures' / part / name
      folder.mkdir(parents=True)
      for j in range(count):
        pixels = rng.integers(0, 100 + 100 * i, (8, 8, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f'{j}.png')
  flags = ['--config.data.source=folder', f'--config.data.dir={tmp_path / "pictures"}']
  flags += ['--config.num_epochs=2', '--config.data.eval_batch_size=4']
  output = train(tmp_path / 'run', *flags)
  assert 'could not be drawn' not in output
  assert 'Glyph' not in output
  report = json.loads((tmp_path / 'run/report.json').read_text())
  assert report['class_names'] == ['$\\frac{cost$', os.fsdecode(b'b\xe9b\xe9')]
  for name in ('ema_weights.safetensors', 'curves.png', 'confusion.png'):
    assert (tmp_path / 'run' / name).stat().st_size > 1000
