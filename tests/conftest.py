"""Fixtures are in shared_fixtures.py, which imports TensorFlow."""


def pytest_configure(config):
    """Not for a process that hands tests to others, whose start it would delay."""
    hands_on = config.getoption("numprocesses", None)
    if not hands_on or hasattr(config, "workerinput"):
        config.pluginmanager.import_plugin("shared_fixtures")
