"""The versions that stand in a run's events."""

from importlib.metadata import version

from fedhelp_med.common import versions as module


def test_versions_are_those_that_are_installed(monkeypatch):
    found = module.versions()
    assert found["torch"] == version("torch") and found["fedhelp-med"] == version("fedhelp-med")
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    assert module.versions()["no-such-package"] == "not installed"
