"""Packages of definetti_np: the kernels are a top-level folder, but only ever a subpackage of ours."""

from pathlib import Path

from setuptools import setup

# A link leads from definetti_np/kernels to kernels, but a wheel may be built where there are no links.
FOLDERS = sorted({path.parent.name for path in Path(__file__).parent.glob("definetti_np/*/__init__.py")} | {"kernels"})

setup(
    packages=["definetti_np", *(f"definetti_np.{folder}" for folder in FOLDERS)],
    package_dir={"definetti_np": "definetti_np", "definetti_np.kernels": "kernels"},
    package_data={"definetti_np": ["py.typed", "*.pyi"]},
)
