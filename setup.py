"""Packages of definetti_np: the kernels are a top-level folder, but only ever a subpackage of ours."""

from setuptools import setup

FOLDERS = ("engine", "files", "genomes", "kernels", "ops", "simulation")

setup(
    packages=["definetti_np", *(f"definetti_np.{folder}" for folder in FOLDERS)],
    package_dir={"definetti_np": "definetti_np", "definetti_np.kernels": "kernels"},
    package_data={"definetti_np": ["py.typed", "*.pyi"]},
)
