"""Bundled policies, scenarios and receivers, as YAML files beside this module."""
