"""The command `medpair`: its commands in the order of use, options for all, exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import common
from common.cli_auditing import audit
from common.cli_cards import card
from common.cli_comparison import compare
from common.cli_data import export, info, prepare
from common.cli_dicom import dicom
from common.cli_import import import_weights
from common.cli_judging import judge
from common.cli_pack import pack
from common.cli_pipeline import evaluate, generate, train
from common.cli_report import report
from common.cli_uses import counterfactual, enhance, harmonise
from common.console import begin, complain, end, say
from common.errors import IncompleteError, MedpairError
from common.logfile import Session, log

# torch and monai take seconds to import: subcommands import what they need when they run.

INCOMPLETE = 1
USER_ERROR = 2
INTERRUPTED = 130

COMMANDS: dict[str, list[tuple[Callable[..., None], str]]] = {
    "Data": [
        (info, "info medgen3d"),
        (dicom, "dicom scans/p1 --schema thorax7"),
        (
            prepare,
            "prepare --images scans --labels masks --schema brain4 --spacing 4 "
            "--size 48x40x40 --out pairset",
        ),
    ],
    "Train": [
        (train, "train medgen3d --data pairset --preset tiny --out weights"),
        (import_weights, "import-weights model.pt sdm_refiner --overlay sizes.yaml --out new.pt"),
    ],
    "Generate": [
        (generate, "generate medgen3d --n 20 --seed 0 --out pairs"),
        (enhance, "enhance --data pairset --times 3 --out new"),
        (
            counterfactual,
            "counterfactual --image scan.nii.gz --mask mask.nii.gz --edit edit.yaml --out edited",
        ),
        (harmonise, "harmonise --data pairset --reference 1000 --slice 24 --out alike"),
    ],
    "Judge": [
        (report, "report pairs"),
        (evaluate, "evaluate mcdpm_mask --data pairset --synthetic pairs --out masks"),
        (judge, "judge --real pairset --synthetic pairs --out report"),
        (audit, "audit pairs --real pairset --out report"),
        (compare, "compare --real pairset --synthetic pairs --strategies E2-1,E2-4 --out report"),
        (card, "card report --real pairset --synthetic pairs --out card"),
    ],
    "Share": [
        (export, "export pairset --format nnunet --add pairs --out nnUNet_raw"),
        (pack, "pack all --out zips"),
    ],
}
"""Panels of the help, in the order in which one uses them: each command with an example."""

MANUAL = """
[bold]Examples[/bold]

  medpair generate medgen3d --n 4 --out pairs
  medpair judge --real pairset --synthetic pairs --out report
  medpair audit pairs --real pairset --out report --quiet --log-file run.log

[bold]Exit codes[/bold]

    0  done
    1  done but for some items, which lines on standard error name;
       or a fault of medpair itself, which ends with a traceback
    2  wrong input: one line with the value seen, what is wanted, the repair
  130  interrupted: the same command continues

medpair COMMAND --help shows an example of a command. Generation and training
that were interrupted go on with the same command.
"""

app = typer.Typer(rich_markup_mode="rich", epilog=MANUAL)
for panel, commands in COMMANDS.items():
    for function, example in commands:
        app.command(
            function.__name__.replace("_", "-"),
            rich_help_panel=panel,
            epilog=f"Example:  medpair {example}",
        )(function)


def _version(wanted: bool) -> None:
    if wanted:
        say(f"medpair {common.__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Only errors and the last line; also after COMMAND.")
    ] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file",
            metavar="FILE",
            help="Append everything with times to FILE; also after COMMAND.",
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and exit.")
    ] = False,
) -> None:
    """Paired 3D medical images and masks, from networks trained on annotated scans.

    It prepares scans and masks as a pair set, trains generators on it, generates
    new pairs and judges them beside real scans. Weights for small brains ship.
    """
    begin(quiet=quiet)
    ctx.ensure_object(Session).open(quiet=quiet, log_file=log_file)


def hoisted(words: Sequence[str]) -> list[str]:
    """Move the options of all commands in front of the command, wherever they stand.

    Args:
        words: the command line without the program's name.

    Raises:
        MedpairError: ``--log-file`` without a file.
    """
    front: list[str] = []
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            return [*front, *rest, word, *left]
        if word == "--quiet" or word.startswith("--log-file="):
            front.append(word)
        elif word == "--log-file":
            value = next(left, "")
            if not value or value.startswith("-"):
                raise MedpairError(
                    f"--log-file: found '{value}', wanted a file; write --log-file run.log"
                )
            front += [word, value]
        else:
            rest.append(word)
    return [*front, *rest]


def one_line(error: BaseException) -> str | None:
    """Return the line to show for a user's mistake; None for an error that is ours.

    MONAI wraps what a config's objects raise, so the causes are searched as well.

    Args:
        error: what a subcommand raised.
    """
    for cause in _causes(error):
        if isinstance(cause, MedpairError):
            return " ".join(str(cause).split())
        if isinstance(cause, OSError):
            return _os_error(cause)
        if hasattr(cause, "format_message"):  # wrong words on the command line
            return " ".join(str(cause.format_message()).split())
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _run(words: Sequence[str]) -> int:
    begin()
    with Session(words) as session:
        code = _code(words, session)
        end()
        log.info("exit code %d", code)
    return code


def _code(words: Sequence[str], session: Session) -> int:
    command = typer.main.get_command(app)
    settings: dict[str, Any] = {"prog_name": "medpair", "standalone_mode": False, "obj": session}
    try:
        code = command.main(hoisted(words) or ["--help"], **settings)
    except Exception as error:
        line = one_line(error)
        if line is None:
            log.exception("a fault of medpair")
            raise
        complain(line)
        incomplete = any(isinstance(cause, IncompleteError) for cause in _causes(error))
        return INCOMPLETE if incomplete else USER_ERROR
    if code == INTERRUPTED:
        complain("interrupted: the same command continues")
    return code if isinstance(code, int) else 0


def main(words: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0, 2 with one line on standard error for a user's mistake, or 1.

    1 says that the work is done but for some items, which lines on standard error name.

    Args:
        words: the command line without the program's name; default ``sys.argv[1:]``.
    """
    sys.exit(_run(sys.argv[1:] if words is None else words))
