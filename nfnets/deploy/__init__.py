"""A trained network for use elsewhere: folded, as a function, as StableHLO, as an ONNX graph."""

from nfnets.deploy.folding import fold, is_folded
from nfnets.deploy.onnx_file import export_onnx
from nfnets.deploy.programs import export_stablehlo, load_stablehlo, portable, predictor

__all__ = [
  'export_onnx',
  'export_stablehlo',
  'fold',
  'is_folded',
  'load_stablehlo',
  'portable',
  'predictor',
]
