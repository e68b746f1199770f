"""``fedhelp``: exit status 0 done, 1 the work failed, 2 the input is wrong."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedhelp_med import __version__
from fedhelp_med.cli.foundation_commands import foundation
from fedhelp_med.common.errors import FedHelpError, own_error, reason_of

app = typer.Typer(
    name="fedhelp",
    help="Federated learning for medical imaging in which small and large sites teach each other (FedHelp).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(foundation, name="foundation")
data = typer.Typer(help="Images of a site.", no_args_is_help=True)
app.add_typer(data, name="data")
export = typer.Typer(help="A finished site's network, or a federation, for use elsewhere.", no_args_is_help=True)
app.add_typer(export, name="export")

OutOption = Annotated[Path, typer.Option("--out", help="The folder for the results; it has to be new or empty.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on in an existing run folder.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; the numbers stay the same.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedhelp-med {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the log of the libraries.")] = False,
) -> None:
    if debug:
        global _debug
        _debug = True


_debug = False


@app.command()
def demo(
    out: OutOption = Path("demo-run"),
    task: Annotated[
        Literal["classification", "segmentation"], typer.Option(help="Find lesions, or outline brain tissue.")
    ] = "classification",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Instead of the brain template: a MedMNIST .npz file; for segmentation a folder of blood cells."
        ),
    ] = None,
    public: Annotated[
        Path | None,
        typer.Option(
            help="The public set: a zip of pictures, one folder a class; with blood cells a second such folder."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds; default 10.")] = None,
    workers: WorkersOption = None,
    resume: ResumeOption = False,
) -> None:
    """Make small and large demo sites, let them train together, and show who gained what."""
    from fedhelp_med.cli.demo import run_demo

    run_demo(out, data, public, task=task, seed=seed, rounds=rounds, workers=workers, resume=resume)


@app.command()
def run(
    federation: Annotated[Path, typer.Argument(help="The federation file (YAML).")],
    out: OutOption,
    resume: ResumeOption = False,
    workers: WorkersOption = None,
    runtime: Annotated[
        Literal["in-process", "nvflare-sim", "nvflare-poc"],
        typer.Option(help="Our own runner, NVFlare's simulator, or its POC with provisioned processes."),
    ] = "in-process",
) -> None:
    """Run the federation that a file describes."""
    from fedhelp_med.cli.run import run_file

    run_file(federation, out, resume=resume, workers=workers, runtime=runtime)


@app.command()
def compare(
    federation: Annotated[Path, typer.Argument(help="The federation file (YAML).")],
    methods: Annotated[
        str, typer.Option(help="Methods with commas between them; METHOD@key=value,... changes a key of the file.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for the results. The same command goes on in it.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from the file's on.")] = 3,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes, a cell each; by default one a core.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Compare by this metric, of which more is better; by default auc, else dice_mean."),
    ] = None,
    split: Annotated[
        Literal["testing", "validation"], typer.Option(help="What the tables show; choose settings on validation.")
    ] = "testing",
) -> None:
    """Run the same federation under several methods and seeds, and show who gains what."""
    from fedhelp_med.cli.compare import compare_methods

    compare_methods(federation, methods, seeds=seeds, out=out, workers=workers, metric=metric, split=split)


@data.command()
def scan(
    source: Annotated[Path, typer.Argument(help="A folder, a zip or a DICOMDIR.")],
    out: Annotated[Path, typer.Option("--out", help="The datalist to write.")] = Path("datalist.json"),
    labels: Annotated[
        str | None, typer.Option(help="A CSV with `label` and `file`, `series`, `study` or `patient`; or: folders.")
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="Where masks lie, such as '{name}_mask.nii.gz' or '../masks/{name}.png'.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Their names in order, with commas; one order at all sites.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Per cent of training, validation and testing; default 70/15/15, with --public 100."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    patients: Annotated[
        str | None,
        typer.Option(help="Regular expression whose first group, in a path, is the patient; also of DICOM."),
    ] = None,
    modality: Annotated[str | None, typer.Option(help="Only this DICOM modality, such as CT.")] = None,
    description: Annotated[str | None, typer.Option(help="Only series whose description matches this.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the datalist; by default the folder's.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Declare that every image may leave the site.")] = False,
) -> None:
    """Find studies and labels, divide them by patient, write a datalist, and say why files were left out."""
    from fedhelp_med.cli.data import scan_folder
    from fedhelp_med.data.scan import ScanOptions

    names = tuple(part.strip() for part in classes.split(",")) if classes else None
    scan_folder(
        source, out, ScanOptions(labels, masks, split, seed, names, patients, modality, description, name, public)
    )


@data.command()
def check(
    datalists: Annotated[list[Path], typer.Argument(help="The datalists of one federation's sites, or its file.")],
    json: Annotated[Path | None, typer.Option("--json", help="Write everything as JSON.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with thumbnails.")] = None,
) -> None:
    """Read every image as training will; exit status 1 when training would be unsound."""
    from fedhelp_med.cli.data import check_datalists

    check_datalists(datalists, json, html)


@data.command()
def pull(
    source: Annotated[str, typer.Argument(help="https://HOST/dicom-web, or dicom://HOST:PORT/TITLE (dicoms: TLS).")],
    out: Annotated[Path, typer.Option("--out", help="The study folder; the same command goes on in it.")],
    match: Annotated[
        list[str] | None, typer.Option(help="KEYWORD=VALUE, e.g. PatientID=17 or StudyDate=20240101-20240630; repeat.")
    ] = None,
    user: Annotated[str | None, typer.Option(help="Of basic authentication.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="Default: the variable FEDHELP_PACS_PASSWORD.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="Bearer token. Default: FEDHELP_PACS_TOKEN.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file of the authority that signed the archive.")] = None,
    cert: Annotated[Path | None, typer.Option(help="PEM file of our own certificate and key, for TLS.")] = None,
    plain_http: Annotated[bool, typer.Option("--plain-http", help="Allow credentials without TLS.")] = False,
    title: Annotated[str, typer.Option(help="dicom://: our title, which the archive must know.")] = "FEDHELP",
    method: Annotated[Literal["get", "move"], typer.Option(help="dicom://: C-GET or C-MOVE.")] = "get",
    listen: Annotated[str | None, typer.Option(help="C-MOVE: HOST:PORT where the archive sends to.")] = None,
    anonymise: Annotated[
        bool, typer.Option("--anonymise", help="Remove what identifies the patient (PS3.15).")
    ] = False,
    key_file: Annotated[Path | None, typer.Option(help="Secret of the pseudonyms; made when it is not there.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the series that match.")] = False,
) -> None:
    """Fetch series from a picture archive (PACS) into a study folder."""
    from fedhelp_med.cli.pull import pull_studies

    pull_studies(
        source,
        match or [],
        out,
        user=user,
        password_file=password_file,
        token_file=token_file,
        authority=ca,
        certificate=cert,
        plain=plain_http,
        title=title,
        method=method,
        listen=listen,
        anonymise=anonymise,
        key_file=key_file,
        dry_run=dry_run,
    )


@app.command()
def predict(
    model: Annotated[str, typer.Option(help="RUN (its global network), RUN:SITE (what it deploys), or a bundle.")],
    source: Annotated[Path, typer.Option("--input", help="A folder, a zip, a DICOMDIR or a file with images.")],
    out: OutOption,
    site: Annotated[str | None, typer.Option(help="The same as RUN:SITE.")] = None,
) -> None:
    """Let a trained network read new images: probabilities, masks, DICOM SEG, pictures."""
    from fedhelp_med.cli.predict import predict_images

    predict_images(model, source, out, site)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run, or of a comparison.")],
    examples: Annotated[
        bool, typer.Option(help="Show pictures of test studies, where they are on this machine.")
    ] = True,
) -> None:
    """Write the report again: one HTML file for a browser."""
    from fedhelp_med.cli.report import report_again

    report_again(folder, examples=examples)


RunArgument = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
SiteOption = Annotated[str, typer.Option("--site", help="The site whose deployed network is exported.")]


@export.command("bundle")
def export_bundle(run: RunArgument, site: SiteOption, out: OutOption) -> None:
    """Write a site's deployed network as a MONAI bundle, e.g. for MONAI Label."""
    from fedhelp_med.cli.export import bundle

    bundle(run, site, out)


@export.command("onnx")
def export_onnx(run: RunArgument, site: SiteOption, out: OutOption) -> None:
    """Write a site's deployed network as ONNX with its preprocessing, and compare it with torch."""
    from fedhelp_med.cli.export import onnx

    onnx(run, site, out)


@export.command("nvflare")
def export_nvflare(
    federation: Annotated[Path, typer.Argument(help="The federation file (YAML).")],
    out: Annotated[Path, typer.Option("--out", help="The folder for the job; it has to be new or empty.")],
    acquire: Annotated[
        Path | None, typer.Option(help="Only ask this foundation model about the public set, in one round, with --at.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="The site that asks the foundation model.")] = None,
) -> None:
    """Write a federation as a job for NVFlare 2.9."""
    from fedhelp_med.cli.export import nvflare

    nvflare(federation, out, acquire, at)


def main() -> None:
    """Run the command line; errors are one readable message on stderr."""
    try:
        app(standalone_mode=False)
    except FedHelpError as error:
        if _debug:
            raise
        sys.stderr.write(f"fedhelp: {error}\n")
        sys.exit(error.exit_status)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("fedhelp: stopped; a run can be continued with --resume\n")
        sys.exit(1)
    except Exception as error:
        shown = getattr(error, "show", None)
        if callable(shown):  # a usage error of the command line itself
            shown()
            sys.exit(getattr(error, "exit_code", 2))
        if _debug:
            raise
        if (own := own_error(error)) is not None:
            sys.stderr.write(f"fedhelp: {own}\n")
            sys.exit(own.exit_status)
        sys.stderr.write(f"fedhelp: {reason_of(error)} (run again with --debug for the whole story)\n")
        sys.exit(1)
