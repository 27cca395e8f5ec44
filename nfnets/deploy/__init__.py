"""A trained network for use elsewhere: folded, as a function, StableHLO or ONNX, in int8."""

from nfnets.deploy.folding import fold, is_folded
from nfnets.deploy.onnx_file import export_onnx
from nfnets.deploy.programs import export_stablehlo, load_stablehlo, portable, predictor
from nfnets.deploy.quantization import Quantization, quantize_onnx

__all__ = [
  'Quantization',
  'export_onnx',
  'export_stablehlo',
  'fold',
  'is_folded',
  'load_stablehlo',
  'portable',
  'predictor',
  'quantize_onnx',
]
