"""A folder of sixty pictures, by the recipe as it is."""

import pathlib

import pytest

from configs import image_folder
from experiments import evaluate
from scripts import draw_shapes


@pytest.mark.slow
def test_sixty_drawn_shapes_are_enough(train, tmp_path):
  draw_shapes.write(tmp_path / 'shapes', per_class=20, seed=0)
  flags = [f'--config.data.dir={tmp_path / "shapes"}']
  recipe = pathlib.Path(image_folder.__file__)
  output = train(tmp_path / 'run', *flags, config=recipe)
  assert '48 training and 12 test images' in output
  # Others that nobody has seen.
  draw_shapes.write(tmp_path / 'fresh/test', per_class=100, seed=1)
  draw_shapes.write(tmp_path / 'fresh/train', per_class=1, seed=2)
  config = image_folder.get_config()
  config.data.dir = str(tmp_path / 'fresh')
  found = evaluate.evaluate_file(config, tmp_path / 'run')
  assert found['count'] == 300
  assert found['top1'] >= 0.9
