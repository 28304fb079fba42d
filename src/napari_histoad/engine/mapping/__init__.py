"""Mapping slides: blocks of tiles scored here or on a Dask cluster, and written."""
