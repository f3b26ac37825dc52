"""Shared fixtures. Tests share a machine's cores: torch gets one thread, and pytest-xdist the others."""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """The current folder is an empty one, as a user's would be."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
