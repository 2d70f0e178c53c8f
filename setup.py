"""Packages of definetti_np: the kernels are a top-level folder, but only ever a subpackage of ours."""

from setuptools import setup

setup(
    packages=["definetti_np", "definetti_np.kernels"],
    package_dir={"definetti_np": "definetti_np", "definetti_np.kernels": "kernels"},
)
