"""The tables of published weights: where to find them, and how their pictures are prepared."""

import pathlib
from typing import NamedTuple

from nfnets import zoo
from nfnets.preprocessing import Preprocessing
from nfnets.weights.download import RemoteFile

# DeepMind's release ([NFNet], https://github.com/google-deepmind/deepmind-research).
_BUCKET = 'https://storage.googleapis.com/dm-nfnets'
DEEPMIND: dict[str, RemoteFile] = {
  name: RemoteFile(f'{_BUCKET}/{name}_haiku.npz', size, f'md5:{md5}')
  for name, size, md5 in (
    ('F0', 285_976_842, '0a41039da1cb43adf47f1b7d86ddfe0f'),
    ('F1', 530_574_574, 'c9126bbfaf855f9ddb7ff3b902558781'),
    ('F2', 775_172_305, '7a018d8d1498020e2f5a8719a1e7f53f'),
    ('F3', 1_019_770_037, 'd8e1e78d26db659c486150dbaccbe78a'),
    ('F4', 1_264_367_768, 'f5974a7e3388aa81b91a9f1403e759a4'),
    ('F5', 1_508_965_499, '8639e925de951030651ac775b9f915c3'),
    ('F6', 1_753_563_230, 'b16cca40ac1ecec2bd5e3273866da0c1'),
  )
}


class TimmWeights(NamedTuple):
  """Weights on the Hugging Face hub."""

  repository: str
  preprocessing: Preprocessing


_HALF = (0.5, 0.5, 0.5)

# Name, tag, size in pixels, share of the side that is kept: those of timm 1.0.31.
TIMM: dict[str, TimmWeights] = {
  **{
    f'dm_nfnet_f{n}': TimmWeights(
      f'timm/dm_nfnet_f{n}.dm_in1k', Preprocessing(size, 'squash', share)
    )
    for n, (size, share) in enumerate(
      ((256, 0.9), (320, 0.91), (352, 0.92), (416, 0.94), (512, 0.951), (544, 0.954), (576, 0.956))
    )
  },
  **{
    name: TimmWeights(f'timm/{name}.{tag}', Preprocessing(size, 'center', share))
    for name, tag, size, share in (
      ('nfnet_l0', 'ra2_in1k', 288, 1.0),
      ('eca_nfnet_l0', 'ra2_in1k', 288, 1.0),
      ('eca_nfnet_l1', 'ra2_in1k', 320, 1.0),
      ('eca_nfnet_l2', 'ra3_in1k', 384, 1.0),
      ('nf_regnet_b1', 'ra2_in1k', 288, 0.9),
      ('nf_resnet50', 'ra2_in1k', 288, 0.94),
    )
  },
  'test_nfnet': TimmWeights(
    'timm/test_nfnet.r160_in1k', Preprocessing(160, 'center', 0.95, mean=_HALF, stddev=_HALF)
  ),
}

# Small networks, trained here by the commands in docs/models.md; they come with the library.
_FOLDER = pathlib.Path(__file__).parent / 'shipped'
SHIPPED: dict[str, pathlib.Path] = {
  name: _FOLDER / f'{name}.safetensors' for name in ('digits', 'fashion_mnist')
}
NAMES: tuple[str, ...] = (*DEEPMIND, *TIMM, *SHIPPED)


def preprocessing_of(name: str) -> Preprocessing:
  """Returns how the published weights of a model's name were evaluated.

  Args:
    name: one that `zoo.get_spec` knows; models without weights in `TIMM` get the protocol of
      DeepMind's release.

  Raises:
    ValueError: there is no such model.
  """
  if name in TIMM:
    return TIMM[name].preprocessing
  return Preprocessing(zoo.get_spec(name).test_size)
