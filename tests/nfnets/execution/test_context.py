"""The choice of a strategy: what it accepts, and that jit's cache knows it."""

import jax
import jax.numpy as jnp
import pytest

from nfnets import execution
from nfnets.execution import context


@pytest.mark.parametrize(
  ('choice', 'sentence'),
  [
    ({'convolutions': 'fast'}, r"Unknown convolutions 'fast': choose one of \('auto', 'plain'"),
    ({'space_to_depth': 'always'}, "Unknown space_to_depth 'always': choose one of"),
    ({'minimal_filtering': 'yes'}, "Unknown minimal_filtering 'yes': choose one of"),
  ],
)
def test_unknown_choices_are_refused(choice, sentence):
  with pytest.raises(ValueError, match=sentence), execution.strategy(**choice):
    pass


def test_what_is_not_given_stays_and_all_of_it_ends_with_the_context():
  assert execution.current() == execution.Strategy()
  with execution.strategy('cpu', training_step=True):
    with execution.strategy(space_to_depth='on', rematerialize=[1]):
      assert execution.current() == execution.Strategy('cpu', 'on', True, (1,))
    assert execution.current() == execution.Strategy('cpu', training_step=True)
  assert execution.current() == execution.Strategy()


def test_only_what_is_written_for_a_cpu_recomputes():
  for convolutions, expected in (('cpu', True), ('plain', False), ('tpu', False)):
    with execution.strategy(convolutions, training_step=True):
      assert context.recomputes() == expected


def test_jit_traces_a_function_anew_under_another_strategy():
  x, w = jnp.ones((1, 8, 8, 12)), jnp.ones((3, 3, 4, 12))
  traced = []

  @jax.jit
  def run(x, w):
    traced.append(execution.current().convolutions)
    return execution.convolve(x, w, groups=3)

  for convolutions in ('plain', 'cpu', 'plain', 'cpu'):
    with execution.strategy(convolutions):
      run(x, w)
  assert traced == ['plain', 'cpu']
