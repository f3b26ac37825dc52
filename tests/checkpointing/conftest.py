"""What several tests of checkpoints begin with."""

import pytest
from support.stores import FaultyStore


@pytest.fixture
def empty_store():
    """The store in memory, empty before and after."""
    FaultyStore.set({})
    yield
    FaultyStore.set({})
