"""The folder of drawn pictures to try training on."""

import numpy as np
import PIL.Image

from scripts import draw_shapes


def test_a_seed_draws_the_same_pictures_and_another_one_others(tmp_path, capsys):
  for name, seed in (('a', '3'), ('b', '3'), ('c', '4')):
    arguments = [str(tmp_path / name), '--per-class', '2', '--seed', seed]
    assert draw_shapes.main(arguments) == 0
  assert capsys.readouterr().out.splitlines()[0] == f'6 pictures of 3 classes in {tmp_path / "a"}.'
  names = sorted(str(p.relative_to(tmp_path / 'a')) for p in (tmp_path / 'a').rglob('*.png'))
  assert names == [
    f'{kind}/000{i}.png' for kind in ('circle', 'square', 'triangle') for i in (0, 1)
  ]
  for name in names:
    a, b, c = (np.array(PIL.Image.open(tmp_path / folder / name)) for folder in 'abc')
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert a.shape == (128, 128, 3)
    # One colour on white.
    assert len(np.unique(a.reshape(-1, 3), axis=0)) == 2
    assert (a[0, 0] == 255).all()


def test_a_square_fills_its_box_a_circle_less_and_a_triangle_half():
  def filled(kind):
    shape = np.array(draw_shapes.draw(kind, np.random.default_rng(0))).mean(axis=-1) < 255
    rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    return shape.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1)

  assert filled('square') == 1
  assert abs(filled('circle') - np.pi / 4) < 0.03
  assert abs(filled('triangle') - 0.5) < 0.03


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
  assert draw_shapes.main([str(tmp_path)]) == 1
  assert capsys.readouterr().err == f'Error: {tmp_path} exists already: name a new folder.\n'
  assert list(tmp_path.iterdir()) == []
