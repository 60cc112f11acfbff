"""The version, where every layer may read it: importing the package itself would lead up to the services."""

__version__ = "0.1.0"
