"""The packages are found; the configs, which lie beside them, are installed as one of the library's."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["mmdit*"]), "mmdit.configs"])
