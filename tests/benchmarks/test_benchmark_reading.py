"""What reading costs beside other readers, in one run. Printed, never asserted: ``make benchmark``."""

import gc
import importlib.util
import statistics
import time

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from dicom_samples import oblique, uid, write_series
from monai.transforms import LoadImage

from fedhelp_med.data.studies import find_studies
from fedhelp_med.transforms import LoadStudy

pytestmark = pytest.mark.benchmark

SHAPE = (512, 512, 40)
FILES, SLICES = 5000, 50


def timed(readers, repeats=5):
    """Median seconds of each reader, in turn, so that a noisy machine slows all alike."""
    seconds = {name: [] for name in readers}
    for turn in range(repeats + 1):
        for name, read in readers.items():
            gc.collect()
            begin = time.perf_counter()
            read()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def reading(load, source):
    return lambda: load(source)


def show(title, seconds, targets):
    print(f"\n  {title}: " + ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items()))
    for other, target in targets.items():
        if other in seconds:
            print(f"  LoadStudy / {other}: {seconds['LoadStudy'] / seconds[other]:.2f} (target {target})", flush=True)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    torch.set_num_threads(1)
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def head(shape, seed=0):
    """Noise of some structure, as a scanner's image has it: it neither compresses well nor badly."""
    grid = np.meshgrid(*[np.linspace(-1, 1, length) for length in shape], indexing="ij", sparse=True)
    ball = (sum(axis**2 for axis in grid) < 0.8) * 900
    return (ball + np.random.default_rng(seed).normal(0, 20, shape)).astype(np.int16)


def test_dicom_series_to_tensor(tmp_path):
    write_series(tmp_path / "series", head(SHAPE), oblique(), modality="CT")
    folder = str(tmp_path / "series")

    def simpleitk():
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(folder))
        return torch.from_numpy(SimpleITK.GetArrayFromImage(reader.Execute()).astype(np.float32))

    readers = {
        "LoadStudy": reading(LoadStudy(), folder),
        "PydicomReader": reading(LoadImage(reader="PydicomReader"), folder),
        "SimpleITK": simpleitk,
    }
    if importlib.util.find_spec("itk"):
        readers["ITKReader"] = reading(LoadImage(reader="ITKReader"), folder)
    else:
        print("\n  itk is not installed: no ITKReader")
    targets = {"ITKReader": "1", "PydicomReader": "1", "SimpleITK": "1.25"}
    show(f"DICOM series {SHAPE}", timed(readers), targets)


@pytest.mark.parametrize("name", ["volume.nii", "volume.nii.gz"])
def test_nifti_to_tensor(name, tmp_path):
    path = str(tmp_path / name)
    nibabel.save(nibabel.Nifti1Image(head((192, 192, 96)), oblique()), path)
    readers = {
        "LoadStudy": reading(LoadStudy(), path),
        "NibabelReader": reading(LoadImage(reader="NibabelReader"), path),
        "nibabel": lambda: torch.from_numpy(np.ascontiguousarray(nibabel.load(path).get_fdata(dtype=np.float32))),
        "nibabel, column-major": lambda: torch.from_numpy(nibabel.load(path).get_fdata(dtype=np.float32)),
    }
    show(name, timed(readers), {"NibabelReader": "1", "nibabel": "1.25", "nibabel, column-major": "reported"})


def test_scanning_many_small_files(tmp_path):
    volume = head((16, 16, SLICES))
    for number in range(FILES // SLICES):
        write_series(tmp_path / f"{number}", volume, oblique(), patient=f"P{number}", series=uid(f"bench{number}"))
    begin, busy = time.perf_counter(), time.process_time()
    studies, rejected = find_studies(tmp_path)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    assert (len(studies), rejected) == (FILES // SLICES, [])
    print(f"\n  scan: {FILES} files in {seconds:.1f} s: {FILES / seconds:.0f} files/s (target over 500)")
    print(f"  on a core of its own: {FILES / busy:.0f} files/s ({busy:.1f} s of processor time)", flush=True)
