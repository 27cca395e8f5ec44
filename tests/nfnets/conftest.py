"""What the tests of the published families share."""

import re

import numpy as np
import pytest

from nfnets import signal_propagation


@pytest.fixture(scope='session')
def check_against_published(golden):
  """(case, network, params, images, number of blocks): outputs and statistics equal the golden."""

  def check(case, network, params, images, num_blocks):
    expected = golden('models')
    statistics, out = signal_propagation.measure(network, params, images)
    for output in ('logits', 'pool'):
      want = expected[f'{case}/{output}']
      np.testing.assert_allclose(out[output], want, rtol=0, atol=1e-4 * np.abs(want).max())
    (stem,) = [path for path in statistics if path.endswith('.stem')]
    blocks = [path for path in statistics if re.search(r'block(_\d+)?$', path)]
    assert len(blocks) == num_blocks
    for i, path in enumerate([stem, *blocks]):
      for name, key in (('average_squared_mean', 'avg_sq_mean'), ('average_variance', 'avg_var')):
        want = expected[f'{case}/{key}_{i}']
        np.testing.assert_allclose(statistics[path][name], want, rtol=1e-4)
    for i, path in enumerate(blocks):
      got = statistics[f'{path}.residual']['average_variance']
      np.testing.assert_allclose(got, expected[f'{case}/res_avg_var_{i}'], rtol=1e-4)

  return check
