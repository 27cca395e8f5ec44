"""The package `nfnets`: the library, and with the extra `train` the training system around it."""

import pathlib
import re

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent

TRAIN = [
  'absl-py>=2.3,<3',
  'array_record>=0.8.3,<0.9',
  'grain>=0.2.15,<0.3',
  'importlib_resources>=6.4,<8',  # tensorflow-datasets needs it for some data sets
  'matplotlib>=3.9,<4',
  'ml_collections>=1.1,<2',
  'orbax-checkpoint>=0.11.30,<0.13',
  'scikit-learn>=1.6,<2',  # ships the digits
  'tensorboard>=2.19,<3',
  'tensorflow-datasets>=4.9.9,<5',
  'tqdm>=4.66,<5',
]

DOCS = [
  'latex2mathml>=3.78,<4',  # formulas without a script from elsewhere
  'mkdocs>=1.6,<2',
  'mkdocs-material>=9.8,<10',
  'mkdocstrings[python]>=1.0,<2',
  'ruff>=0.15,<1',  # lays out the signatures
]
ONNX = ['onnx>=1.17,<2', 'onnxruntime>=1.20,<2']
AUDIO = ['soundfile>=0.13,<0.15']
DEMO = ['starlette>=0.45,<2', 'uvicorn>=0.34,<1']
EXPORT = ['flatbuffers>=24.3,<26']  # StableHLO files
HUB = ['huggingface_hub>=1.0,<3']  # timm's weights
PRIVATE = ['dp-accounting>=0.6,<0.7', 'jax-privacy>=2.0,<2.1']  # private training

# The programs of the command `nfnets`. Their packages have names that others might use, so that a
# wheel carries them inside a folder of their own, which is on the path of the command alone.
PROGRAMS = ('configs', 'experiments', 'scripts')


class BuildWithPrograms(build_py):
  """Builds the library and the programs. (An editable installation runs them where they are.)"""

  def finalize_options(self):
    """Adds the programs to the packages."""
    super().finalize_options()
    found = find_packages(include=[f'{name}*' for name in PROGRAMS])
    self.packages = [*self.packages, *(f'nfnets_programs.{name}' for name in found)]
    self.package_dir |= {f'nfnets_programs.{name}': name for name in PROGRAMS}


setup(
  name='nfnets',
  version=re.search(r"__version__ = '(.*)'", (ROOT / 'nfnets/__init__.py').read_text()).group(1),
  description='Normalizer-free networks in JAX and Haiku',
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  package_data={
    'nfnets': ['*.txt', 'py.typed'],
    'nfnets.weights': ['shipped/*.safetensors'],
    'nfnets.demo': ['*.css', '*.html', '*.js', '*.svg'],
  },
  packages=find_packages(include=['nfnets', 'nfnets.*']),
  package_dir={'': '.'},
  cmdclass={'build_py': BuildWithPrograms},
  entry_points={'console_scripts': ['nfnets = nfnets.cli:main']},
  python_requires='>=3.11',
  install_requires=[
    'dm-haiku>=0.0.16,<0.1',
    'filelock>=3.21,<5',  # for downloads, and to limit the size of JAX's compilation cache
    'jax>=0.10,<0.13',
    'jaxlib>=0.10,<0.13',
    'numpy>=2.0,<3',
    'opencv-python-headless>=4.12,<6',
    'optax>=0.2.6,<0.3',
    'pillow>=11,<14',
    'safetensors>=0.5,<1',
    'scipy>=1.14,<2',
    'simplejpeg>=1.8,<2',
  ],
  extras_require={
    'audio': AUDIO,  # sounds instead of pictures
    'demo': DEMO,
    'docs': DOCS,
    'export': EXPORT,
    'hub': HUB,
    'onnx': ONNX,
    'private': [*TRAIN, *PRIVATE],
    'serve': ONNX,  # what a Classifier computes with on a CPU
    'train': TRAIN,
    'tfds': [*TRAIN, 'tensorflow>=2.20,<3'],  # only to prepare data sets
    'gpu': ['jax[cuda13]>=0.10,<0.13'],  # drivers from 580 on, GPUs from compute capability 7.5 on
    'gpu12': ['jax[cuda12]>=0.10,<0.13'],  # older drivers and GPUs
    'tpu': ['jax[tpu]>=0.10,<0.13'],
    'dev': [
      *TRAIN,
      *AUDIO,
      *DEMO,
      *EXPORT,
      *HUB,
      *ONNX,
      *PRIVATE,
      'pytest>=8.4,<10',
      'pytest-xdist>=3.8,<4',
      'ruff>=0.15,<1',
    ],
  },
  classifiers=[
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
)
