"""No test sees the caches or registries of whoever runs it; properties are tried on the same examples every time.

``HYPOTHESIS_PROFILE=explore`` tries others.
"""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the user's folders at empty ones; the cache is shared by the run so that it is parsed once."""
    config = tmp_path_factory.mktemp("config")
    cache = tmp_path_factory.getbasetemp().parent / "vramcalc-cache"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("COLUMNS", "100")
    return config / "vramcalc"
