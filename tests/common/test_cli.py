"""The command: words become arguments, a user's mistake becomes one line."""

from __future__ import annotations

import json
import logging
import re
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from common import cli, cli_data
from common.errors import IncompleteError, MedpairError

ROOT = Path(__file__).parents[2]
GENERATE = ["generate", "medgen3d", "--out", "o"]


def run(words: list[str]) -> int:
    """Run the command in this process and return its exit code."""
    with pytest.raises(SystemExit) as done:
        cli.main(words)
    assert isinstance(done.value.code, int)
    return done.value.code


def stub(monkeypatch: pytest.MonkeyPatch, name: str = "common.pipeline", **functions: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def fails_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def generate(*_: Any, **__: Any) -> None:
        raise error

    stub(monkeypatch, generate=generate)


def wrapped(error: Exception) -> RuntimeError:
    """Return an error as MONAI raises it around what a config's objects raise."""
    outer = RuntimeError("Failed to instantiate component")
    outer.__cause__ = error
    return outer


def test_generate_tells_its_part_and_the_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    stub(monkeypatch, generate=lambda _, **words: seen.append(words) or words["out"])
    assert run([*GENERATE, "--num-parts", "4", "--part-id", "3"]) == 0
    assert "part 3 of 4 done in o" in capsys.readouterr().out
    assert run([*GENERATE, "--num-parts", "4", "--engine", "slurm-array"]) == 0
    assert "sbatch o" in capsys.readouterr().out
    assert run([*GENERATE, "--workers", "3", "--engine", "ray"]) == 0
    keys = ("engine", "workers", "num_parts", "part_id")
    assert [tuple(words[key] for key in keys) for words in seen] == [
        ("local", 2, 4, 3),
        ("slurm-array", 2, 4, None),
        ("ray", 3, 1, None),
    ]


def test_generate_hands_its_words_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def generate(pipeline: str, **kwargs: Any) -> Path:
        kwargs["progress"]("volumes", 2, 2)
        seen.update(kwargs, pipeline=pipeline)
        return Path(kwargs["out"])

    stub(monkeypatch, generate=generate)
    words = "--n 2 --seed 7 --preset tiny --depth 48 --start 0 --weights w --stages mask,image"
    words += " --batch-volumes 8 --compile --exact"
    assert run([*GENERATE, *words.split()]) == 0
    del seen["progress"]
    assert seen == {
        "pipeline": "medgen3d",
        "num": 2,
        "seed": 7,
        "out": Path("o"),
        "preset": "tiny",
        "depth": 48,
        "start": 0,
        "weights": Path("w"),
        "stages": ["mask", "image"],
        "data": None,
        "gate": True,
        "engine": "local",
        "workers": 2,
        "num_parts": 1,
        "part_id": None,
        "batch_volumes": 8,
        "memory_gib": None,
        "compile": True,
        "exact": True,
    }
    said = capsys.readouterr()
    assert "2 pairs in o" in said.out
    assert "volumes: 2/2" in said.err


def test_the_gate_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    stub(monkeypatch, generate=lambda pipeline, **kwargs: seen.update(kwargs))
    assert run([*GENERATE, "--no-gate"]) == 0
    assert seen["gate"] is False


@pytest.mark.parametrize("wrap", [wrapped, lambda error: error])
def test_work_that_is_done_but_for_some_items_ends_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrap: Any
) -> None:
    fails_with(monkeypatch, wrap(IncompleteError("gate: 1 of 2 pairs failed")))
    assert run(GENERATE) == 1
    assert capsys.readouterr().err.strip() == "error: gate: 1 of 2 pairs failed"


def audited(out: Path, seen: dict[str, Any], problems: list[str]) -> Any:
    """Stand for the audit: write what the command reads of its report."""

    def audit(pairset: Path, **kwargs: Any) -> Path:
        seen.update(kwargs, pairset=pairset)
        report = {"n": 4, "n_copies": 2, "n_mem": 1, "removed": {"a": "", "b": ""}}
        (out / "audit.json").write_text(json.dumps({**report, "problems": problems}))
        return out

    return audit


def test_audit_hands_its_words_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}
    stub(monkeypatch, "common.auditing", audit=audited(tmp_path, seen, []))
    assert run(["audit", "p", "--real", "r", "--out", "o", "--quarantine"]) == 0
    del seen["progress"]
    assert seen == {
        "pairset": Path("p"),
        "out": Path("o"),
        "real": Path("r"),
        "training": None,
        "heldout": None,
        "action": "quarantine",
        "real_pictures": True,
    }
    said = capsys.readouterr().out
    assert "copies: 2 of 4 pairs, of 1 training scans; 2 taken out" in said
    assert run(["audit", "p", "--training", "t", "--heldout", "h", "--out", "o", "--drop"]) == 0
    assert (seen["training"], seen["heldout"], seen["action"]) == (Path("t"), Path("h"), "drop")
    assert run(["audit", "p", "--training", "t", "--out", "o"]) == 0
    assert seen["action"] is None
    assert run(["audit", "p", "--real", "r", "--out", "o", "--drop", "--quarantine"]) == 2
    stub(monkeypatch, "common.auditing", audit=audited(tmp_path, seen, ["pair 3 is left out"]))
    assert run(["audit", "p", "--real", "r", "--out", "o"]) == 1
    assert "error: pair 3 is left out" in capsys.readouterr().err


def test_train_hands_its_words_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    stub(monkeypatch, train=lambda pipeline, **kwargs: seen.update(kwargs, pipeline=pipeline))
    words = "train medgen3d --data d --out o --preset tiny --max-iterations 5 --no-resume"
    assert run(words.split()) == 0
    assert (seen["resume"], seen["max_iterations"]) == (False, 5)


def test_evaluate_hands_its_words_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    said = {"evaluate": lambda bundle, **kwargs: seen.update(kwargs, bundle=bundle)}
    stub(monkeypatch, "common.evaluation", **said)
    assert run(["evaluate", "mcdpm_mask", "--data", "d", "--synthetic", "s", "--out", "o"]) == 0
    assert callable(seen.pop("progress"))
    assert seen == {
        "bundle": "mcdpm_mask",
        "data": Path("d"),
        "synthetic": Path("s"),
        "out": Path("o"),
        "weights": None,
        "preset": None,
    }


def words_of(monkeypatch: pytest.MonkeyPatch, use: str, words: str) -> dict[str, Any]:
    """Run a use and return what its words became."""
    seen: dict[str, Any] = {}

    def record(**kwargs: Any) -> Path:
        seen.update(kwargs)
        return Path(kwargs["out"])

    stub(monkeypatch, "common.uses", **{use: record})
    assert run([use, *words.split()]) == 0
    del seen["progress"]
    return seen


def test_enhance_hands_its_words_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--data d --times 3 --mask-augmentation --informed generated --out o --seed 5"
    assert words_of(monkeypatch, "enhance", f"{words} --preset tiny --weights w") == {
        "data": Path("d"),
        "out": Path("o"),
        "times": 3,
        "mask_augmentation": True,
        "informed": "generated",
        "seed": 5,
        "preset": "tiny",
        "weights": Path("w"),
    }
    assert "enhance.json in o" in capsys.readouterr().out
    found = words_of(monkeypatch, "enhance", "--data d --out o")
    assert (found["times"], found["mask_augmentation"], found["informed"]) == (1, False, "cross")


def test_counterfactual_hands_its_words_on(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--image i.nii.gz --mask m.nii.gz --edit e.yaml --out o --slice 7 --keep-outside"
    found = words_of(monkeypatch, "counterfactual", f"{words} --data d --source s --seed 2")
    assert found == {
        "image": Path("i.nii.gz"),
        "mask": Path("m.nii.gz"),
        "edit": Path("e.yaml"),
        "out": Path("o"),
        "slice": 7,
        "keep_outside": True,
        "data": Path("d"),
        "source": "s",
        "allow_mismatch": False,
        "seed": 2,
        "preset": None,
        "weights": None,
    }


def test_harmonise_hands_its_words_on(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--data d --reference 1000 --slice 24 --out o --allow-mismatch"
    assert words_of(monkeypatch, "harmonise", words) == {
        "data": Path("d"),
        "reference": "1000",
        "slice": 24,
        "out": Path("o"),
        "allow_mismatch": True,
        "seed": 0,
        "preset": None,
        "weights": None,
    }


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            MedpairError("--n: 0, wanted >= 1\n  pairs; ask for one"),
            "--n: 0, wanted >= 1 pairs; ask for one",
        ),
        (wrapped(wrapped(MedpairError("x: bad"))), "x: bad"),
        (
            FileNotFoundError(2, "No such file or directory", "a/b"),
            "a/b: No such file or directory",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MedpairError("a [bold]file[/bold].nii: bad"), "a [bold]file[/bold].nii: bad"),
        (MedpairError("y" * 300), "y" * 300),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    line: str,
) -> None:
    fails_with(monkeypatch, error)
    assert run(GENERATE) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {line}\n"
    assert said.out == ""


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), wrapped(ZeroDivisionError()), ValueError("bug")]
)
def test_our_own_error_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fails_with(monkeypatch, error)
    with pytest.raises(type(error)):
        cli.main(GENERATE)


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails_with(monkeypatch, KeyboardInterrupt())
    assert run(GENERATE) == 130
    assert capsys.readouterr().err == "error: interrupted: the same command continues\n"


PREPARE = ["prepare", "--images", "i", "--labels", "l", "--schema", "brain4", "--out", "o"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["generate"], ["pipeline"]),
        (["dream"], ["dream"]),
        ([*GENERATE, "--n", "two"], ["--n", "integer"]),
        ([*GENERATE, "--colour", "red"], ["--colour"]),
        (["enhance", "--data", "d", "--out", "o", "--times", "0"], ["--times"]),
        (["counterfactual", "--image", "i", "--out", "o"], ["--mask"]),
        (["harmonise", "--data", "d", "--reference", "r", "--out", "o"], ["--slice"]),
        (["harmonise", "--slice", "x"], ["--slice", "integer"]),
        ([*PREPARE, "--size", "48x40"], ["--size: found '48x40'", "DxHxW"]),
        ([*PREPARE, "--size", "48.5x40x40"], ["--size: found '48.5x40x40'"]),
        ([*PREPARE, "--size", "0x40x40"], ["--size: found '0x40x40'"]),
        ([*PREPARE, "--spacing", "nan"], ["--spacing: found 'nan'", "mm"]),
        ([*PREPARE, "--spacing", "4,4"], ["--spacing: found '4,4'"]),
        ([*PREPARE, "--spacing", "four"], ["--spacing: found 'four'"]),
    ],
)
def test_wrong_words_are_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    assert run(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert all(part in said for part in parts)


@pytest.mark.parametrize(
    ("text", "spacing"),
    [("4", (4.0, 4.0, 4.0)), ("4x2x2", (4.0, 2.0, 2.0)), ("1,2.5,3", (1.0, 2.5, 3.0))],
)
def test_spacing_is_one_number_or_three(text: str, spacing: tuple[float, ...]) -> None:
    assert cli_data.parse_spacing(text) == spacing


def test_size_is_three_whole_numbers() -> None:
    assert cli_data.parse_size("48x40x32") == (48, 40, 32)


def test_prepare_export_and_info_on_phantoms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from common.data.labels import load_schema
    from common.data.phantom import write_phantom_set

    raw = write_phantom_set(tmp_path / "raw", load_schema("brain4"), (32, 32, 32), 2, 0, (4, 4, 4))
    words = ["prepare", "--images", f"{raw.dir}/images", "--labels", f"{raw.dir}/labels"]
    words += ["--schema", "brain4", "--size", "32x32x32", "--out", f"{tmp_path}/set"]
    assert run([*words, "--source", "schema"]) == 0
    assert "2 pairs in" in capsys.readouterr().out
    assert run(["info", f"{tmp_path}/set"]) == 0
    said = capsys.readouterr().out
    assert "size DxHxW: 32x32x32" in said
    assert "schema: brain4" in said
    name = raw.ids()[0]
    assert run(["export", f"{tmp_path}/set", name, "--out", f"{tmp_path}/back"]) == 0
    assert (tmp_path / "back" / f"{name}_image.nii.gz").is_file()


def compared(out: Path, problems: list[str], seen: dict[str, Any]) -> Any:
    """Stand for the comparison: write what the command reads of its report."""

    def compare(**kwargs: Any) -> Path:
        seen.update(kwargs)
        (out / "compare.json").write_text(json.dumps({"problems": problems}), encoding="utf-8")
        return out

    return compare


def test_compare_hands_its_words_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    stub(monkeypatch, "common.comparison", compare=compared(tmp_path, [], seen))
    words = "compare --real r --synthetic a --synthetic b=c --test t --networks unet3d,unetr"
    words += " --strategies E2-1,E2-4 --seeds 0,5 --updates 9 --folds 3 --out o"
    assert run([*words.split(), "--generator-training", "g"]) == 0
    assert (seen["real"], seen["test"], seen["out"]) == (Path("r"), Path("t"), Path("o"))
    assert (seen["synthetic"], seen["seeds"]) == (["a", "b=c"], [0, 5])
    assert (seen["networks"], seen["strategies"]) == (["unet3d", "unetr"], ["E2-1", "E2-4"])
    assert (seen["updates"], seen["folds"], seen["generator_training"]) == (9, 3, Path("g"))
    assert run(["compare", "--real", "r", "--out", "o"]) == 0
    assert (seen["synthetic"], seen["seeds"], seen["strategies"]) == ((), None, None)


def test_compare_names_what_it_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, "common.comparison", compare=compared(tmp_path, ["pair 3 is left out"], {}))
    assert run(["compare", "--real", "r", "--out", "o"]) == 1
    assert "error: pair 3 is left out" in capsys.readouterr().err
    assert run(["compare", "--real", "r", "--out", "o", "--seeds", "0,x"]) == 2
    assert "--seeds: found '0,x', wanted whole numbers" in capsys.readouterr().err


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_instant_and_light() -> None:
    code = (
        "import sys; from common.cli import _run; _run(['--help']);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'monai', 'nibabel', 'scipy')))"
    )
    began = cpu_seconds_of_children()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "generate" in done.stdout
    assert cpu_seconds_of_children() - began < 1.5  # about 0.3 s


def words_of_help(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run([*words, "--help"]) == 0
    return capsys.readouterr().out


def test_help_groups_the_commands_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    text = words_of_help(capsys)
    marks = ["Data", "prepare", "Train", "Generate", "Judge", "compare", "Share", "pack"]
    places = [re.search(rf"[─│] {mark} ", text) for mark in marks]
    starts = [place.start() if place else -1 for place in places]
    assert starts == sorted(starts)
    assert starts[0] > 0
    assert all(f"{code}  " in text for code in (0, 1, 2, 130))


EXAMPLES = [example for commands in cli.COMMANDS.values() for _, example in commands]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.split()[0])
def test_the_example_of_each_command_is_shown_and_parses(
    capsys: pytest.CaptureFixture[str], example: str
) -> None:
    name, *words = example.split()
    shown = " ".join(words_of_help(capsys, name).split())
    assert f"medpair {example}" in shown
    group: Any = typer.main.get_command(cli.app)
    context = group.make_context("medpair", [name])
    group.get_command(context, name).make_context(name, words, parent=context)


def test_every_example_of_the_manual_parses() -> None:
    group: Any = typer.main.get_command(cli.app)
    examples = re.findall(r"^  medpair (.*)$", cli.MANUAL, re.MULTILINE)
    assert len(examples) >= 3
    for example in examples:
        words = [word for word in example.split() if word not in ("--quiet", "--log-file")]
        words = [word for word in words if word != "run.log"]
        context = group.make_context("medpair", words[:1])
        group.get_command(context, words[0]).make_context(words[0], words[1:], parent=context)


@pytest.mark.parametrize(
    ("words", "front"),
    [
        ("generate m --quiet --out o", "--quiet generate m --out o"),
        ("generate m --log-file=l --out o", "--log-file=l generate m --out o"),
        ("info --log-file l --quiet", "--log-file l --quiet info"),
        ("info -- --quiet", "info -- --quiet"),
        ("info", "info"),
    ],
)
def test_options_of_all_commands_may_stand_anywhere(words: str, front: str) -> None:
    assert cli.hoisted(words.split()) == front.split()


def test_a_log_file_needs_a_name_and_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["info", "--log-file"]) == 2
    assert run(["info", "--log-file", "--quiet"]) == 2
    assert run(["info", "--log-file", str(tmp_path / "none" / "l")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("wanted a file") == 2
    assert said.err.count("\n") == 3


def work(pipeline: str, **kwargs: Any) -> Path:
    """Stand for a generation: progress, a warning of a library, a record of a library."""
    kwargs["progress"]("volumes", 2, 2)
    warnings.warn("deprecated thing", UserWarning, stacklevel=1)
    logging.getLogger("monai.some").warning("library speaks")
    return Path(kwargs["out"])


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_log_file_gets_everything_with_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, generate=work)
    log = tmp_path / "run.log"
    assert run([*GENERATE, "--log-file", str(log)]) == 0
    shown = capsys.readouterr()
    lines = log.read_text().splitlines()
    for part in ("medpair generate medgen3d", "volumes: 2/2", "deprecated", "library speaks"):
        assert any(part in line for line in lines), part
    assert lines[-2].endswith("INFO 1 pairs in o")
    assert lines[-1].endswith("INFO exit code 0")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO medpair", lines[0])
    assert "1 pairs in o" in shown.out
    assert "volumes: 2/2" in shown.err
    fails_with(monkeypatch, MedpairError("--n: 0"))
    assert run([*GENERATE, "--log-file", str(log)]) == 2  # appends
    assert log.read_text().splitlines()[: len(lines)] == lines
    assert "ERROR --n: 0" in log.read_text()
    assert capsys.readouterr().err == "error: --n: 0\n"  # once
    fails_with(monkeypatch, RuntimeError("bug"))
    with pytest.raises(RuntimeError, match="bug"):
        cli.main([*GENERATE, "--log-file", str(log)])
    assert "RuntimeError: bug" in log.read_text()
    size = log.stat().st_size
    assert run(["info", "medgen3d"]) == 0  # the file is closed
    assert log.stat().st_size == size


@pytest.mark.filterwarnings("always::UserWarning")
def test_quiet_leaves_errors_and_the_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, generate=work)
    assert run([*GENERATE, "--quiet"]) == 0
    assert capsys.readouterr() == ("1 pairs in o\n", "")
    files = [tmp_path / "a.zip", tmp_path / "b.zip"]
    for file in files:
        file.write_bytes(b"")
    stub(monkeypatch, "common.pack", pack=lambda name, out: files)
    assert run(["--quiet", "pack", "all", "--out", "o"]) == 0
    assert capsys.readouterr().out == f"{files[1]} (0.0 MB)\n"
    assert run(["pack", "all", "--out", "o"]) == 0  # quiet for one command only
    assert capsys.readouterr().out.count("\n") == 2
    fails_with(monkeypatch, MedpairError("--n: 0"))
    assert run([*GENERATE, "--quiet"]) == 2
    assert capsys.readouterr() == ("", "error: --n: 0\n")
    assert run(["info", "medgen3d", "--quiet"]) == 0  # what was asked for is no chatter
    assert capsys.readouterr().out.startswith("pipeline: medgen3d\n")


def test_a_wrong_pipeline_is_known_without_torch() -> None:
    code = (
        "import sys; from common.cli import _run; code = _run(['train', 'x', '--data', 'd', "
        "'--out', 'o']); sys.exit(3 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "wanted one of gem3d, medgen3d" in done.stderr
