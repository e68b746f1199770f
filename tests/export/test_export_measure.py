import os


def test_peak_memory_is_in_millions_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))  # the module sets numbers of threads for its own process
    from fedhelp_med.export import measure

    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2000 kB\n")  # the kernel's kB has 1024 bytes
    monkeypatch.setattr(measure, "Path", lambda _: tmp_path / "status")
    assert measure.peak_memory() == 2.048
