"""Adds configs/ to the package as gsjax.configs; all metadata lives in setup.cfg."""

import setuptools

setuptools.setup(
    packages=[*setuptools.find_packages(include=["gsjax", "gsjax.*"]), "gsjax.configs"],
    package_dir={"gsjax.configs": "configs"},
)
