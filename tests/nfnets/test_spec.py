import dataclasses
import inspect
import json
import re

import pytest

from nfnets import ModelSpec
from nfnets.spec import Conventions

SMALL = ModelSpec(width=(32, 64), depth=(1, 2), stride=(1, 2), group_width=8)


def test_numbers_stand_for_all_stages():
  assert SMALL.group_width == (8, 8)
  assert SMALL.expansion == (0.5, 0.5)


def test_a_spec_survives_json():
  assert ModelSpec.from_dict(json.loads(json.dumps(SMALL.to_dict()))) == SMALL


@pytest.mark.parametrize('record', [ModelSpec, Conventions])
def test_every_field_is_described_in_order(record):
  described = re.findall(r'^  (\w+): ', inspect.getdoc(record), re.MULTILINE)
  assert described == [field.name for field in dataclasses.fields(record)]


def test_a_spec_is_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    SMALL.alpha = 0.3


def test_the_stem_follows_the_width_unless_it_was_given():
  assert SMALL.stem[-1] == (3, 2, 16)
  assert SMALL.replace(width=(64, 64)).stem[-1] == (3, 2, 32)
  own = SMALL.replace(stem=((3, 1, 24),))
  assert own.replace(width=(64, 64)).stem == ((3, 1, 24),)


def test_bottlenecks_are_whole_groups():
  spec = SMALL.replace(width=(100, 100), group_width=(8, 16))
  assert (spec.bottleneck_width(0), spec.bottleneck_width(1)) == (48, 48)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'depth': (1, 2, 3)}, r'ModelSpec.depth has 3 entries for 2 stages'),
    ({'width': (8, 64)}, r'Stage 0 is 8 wide.*smaller than one group of 8'),
    ({'activation': 'gleu'}, r"Unknown activation 'gleu'"),
    ({'depth': (0, 1)}, r'ModelSpec.depth must be positive'),
    ({'drop_rate': 1.0}, r'ModelSpec.drop_rate must be in \[0, 1\)'),
    ({'group_size': 8}, r"has no field 'group_size'"),
  ],
)
def test_impossible_networks_are_refused_with_a_sentence(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    SMALL.replace(**changes)


def test_from_dict_says_what_is_missing():
  with pytest.raises(ValueError, match='needs depth'):
    ModelSpec.from_dict({'width': (32,)})
  with pytest.raises(ValueError, match="has no field 'widths'"):
    ModelSpec.from_dict({'widths': (32,)})
