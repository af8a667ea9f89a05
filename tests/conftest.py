"""No test needs a network; `python -m pytest -m soak` runs the long ones."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"


def pytest_configure(config):
    config.addinivalue_line("markers", "soak: takes minutes; runs only with -m soak")


def pytest_collection_modifyitems(config, items):
    if "soak" not in config.getoption("-m"):
        for item in items:
            if "soak" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="python -m pytest -m soak"))
