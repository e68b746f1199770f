"""What happens before NVFlare is started; what it does then is in test_nvflare_runtimes."""

import pytest

from fedhelp_med.common.errors import InputError
from fedhelp_med.common.files import alone_in
from fedhelp_med.federation.loading import load_federation
from fedhelp_med.federation.nvflare import launch


@pytest.mark.parametrize("runtime", ["nvflare-sim", "nvflare-poc"])
def test_a_second_process_in_the_same_folder_is_refused_and_changes_nothing(
    federation_file, tmp_path, monkeypatch, runtime
):
    monkeypatch.setattr(launch, "find_spec", lambda name: True)
    monkeypatch.setattr(launch, "_launch", lambda *_: pytest.fail("NVFlare would have been started"))
    federation, out = load_federation(federation_file()), tmp_path / "out"
    with alone_in(out), pytest.raises(InputError, match="out: another process is working in it"):
        launch.run_in_nvflare(federation, out, runtime)
    assert not list(out.iterdir())
