"""Mutation testing: do the tests notice changes of the code? The mutants are made by Cosmic Ray's operators.

    uv run --group mutation python -m benchmarks.mutants [--only guidelines] [--sample 40] [--seed 0] [--seconds 900]

A mutant is a module with one change: a comparison's boundary, an operator, a number by one, a condition negated, a loop
left out. It is killed if a test fails or does not end, and survives if all pass. Mutants that cannot be imported, and
those that change only annotations, the kind of a parameter or zip's check of lengths, do not count. Each mutant runs in
a process forked from one that has imported the libraries. Tests that start other processes do not see it. The command
prints each survivor and the share of killed mutants.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
import scipy.ndimage
import skimage.segmentation
import torch
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

LIBRARIES = (hypothesis, np, pytest, scipy.ndimage, skimage.segmentation, torch)
ROOT = Path(__file__).resolve().parents[1]
# The changed modules, and their tests: the fastest first, because the first failure ends a run.
SUBJECTS = {
    "guidelines": ("src/guidelines/[!p]*.py src/guidelines/patient.py", "guidelines guidelines_patient"),
    "prior": ("src/guidelines/prior.py", "lung_rads_table"),
    "triage": ("src/triage/*.py", "triage triage_calibration"),
    "measurement": ("src/measurement/*.py", "axes masks cube measured_parts nodule_properties segmentation"),
    "windows": ("src/detection/[bwts][lils]*.py", "windows sliding_window"),
    "peaks": ("src/detection/p[eo]*.py", "peaks"),
    "looks": ("src/detection/second_look.py", "second_look"),
    "geometry": ("src/data/geometry.py", "geometry resample pairing"),
    "resampling": ("src/data/resample.py", "resample"),
    "losses": ("src/train/losses.py", "train_losses"),
}
OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Mod_Mul", "Pow_Mul", "BitAnd_BitOr", "BitOr_BitAnd")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Eq_NotEq")),
    *(f"ReplaceComparisonOperator_{pair}" for pair in ("NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceUnaryOperator_{pair}" for pair in ("USub_UAdd", "Delete_Not", "Delete_Invert")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop"),
)
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-W", "ignore::pytest.PytestAssertRewriteWarning")
NOT_IMPORTED = 99  # exit code
TIMES = 4.0  # a mutant's time limit: this factor of the unchanged code's time, and some seconds


class Mutant(NamedTuple):
    """A module with one change."""

    path: Path
    code: str

    @property
    def change(self) -> str:
        """Its first changed line, after and before the change."""
        before = (ROOT / self.path).read_text(encoding="utf-8").splitlines()
        lines = enumerate(zip(before, self.code.splitlines(), strict=False), start=1)
        number, (old, new) = next((number, pair) for number, pair in lines if pair[0] != pair[1])
        return f"{self.path}:{number}: {old.strip()}  ->  {new.strip()}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the mutants of the chosen subjects. Print the survivors and each subject's share of killed mutants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=SUBJECTS, action="append", help="default: all")
    parser.add_argument("--sample", type=int, help="so many of each subject's mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for each subject")
    options = parser.parse_args(arguments)
    killed = counted = 0
    for name in options.only or SUBJECTS:
        modules, tests = SUBJECTS[name]
        mutants = [
            one
            for pattern in modules.split()
            for path in sorted(ROOT.glob(pattern))
            for one in mutants_of(path.relative_to(ROOT))
        ]
        random.Random(options.seed).shuffle(mutants)  # noqa: S311 - no secret
        files = [f"tests/test_{test}.py" for test in tests.split()]
        some, all_of = run(mutants[: options.sample], files, options.seconds)
        killed, counted = killed + some, counted + all_of
        tell(f"{name}: {some} of {all_of} killed ({some / max(1, all_of):.0%}), drawn from {len(mutants)}")
    tell(f"all: {killed} of {counted} killed ({killed / max(1, counted):.0%})")


def tell(line: str) -> None:
    """Print a line and flush it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All mutants of a module that a test could notice."""
    source = (ROOT / path).read_text(encoding="utf-8")
    tree, plain = get_ast(source), noticeable(source)
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        for number in range(sum(len(list(operator.mutation_positions(node))) for node in ast_nodes(tree))):
            code = mutate_code(source, operator, number)
            with contextlib.suppress(SyntaxError):
                if code and noticeable(code) != plain:
                    yield Mutant(path, code)


def noticeable(source: str) -> str:
    """The code as a tree in text, without types, the kinds of parameters, and zip's check of lengths."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(None))
        if isinstance(node, ast.arguments):  # the bare * between them is no product
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults += [default for default in node.kw_defaults if default]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
        elif isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
    return ast.dump(tree)


def run(mutants: Sequence[Mutant], files: Sequence[str], seconds: float) -> tuple[int, int]:
    """The number of mutants killed by the test files, and of mutants tried within `seconds`."""
    start = time.monotonic()
    if (code := in_child(None, files, 3600)) != 0:
        msg = f"the unchanged code fails its tests ({code}): {' '.join(files)}"
        raise SystemExit(msg)
    limit = TIMES * (time.monotonic() - start) + 20
    start = time.monotonic()
    killed = counted = 0
    for mutant in mutants:
        if time.monotonic() - start > seconds:
            break
        code = in_child(mutant, files, limit)
        if code != NOT_IMPORTED:
            counted += 1
            killed += code != 0
        if code == 0:
            tell(f"survived: {mutant.change}")
    return killed, counted


def in_child(mutant: Mutant | None, files: Sequence[str], limit: float) -> int | None:
    """The exit code of the tests in a child process, or None if they did not end within `limit` seconds."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        os._exit(tested(mutant, files))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def tested(mutant: Mutant | None, files: Sequence[str]) -> int:
    """The exit code of the tests in this process, where the mutant replaces its module."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if mutant:
        sys.meta_path.insert(0, Finder(mutant))
        try:
            importlib.import_module(Finder.name(mutant.path))
        except Exception:  # noqa: BLE001 - whatever the change breaks
            return NOT_IMPORTED
    code = int(pytest.main([*OPTIONS, *files]))
    sys.stdout.flush()
    return code


class Finder:
    """An importer that gives the mutant instead of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    @staticmethod
    def name(path: Path) -> str:
        """The module's name."""
        return ".".join(path.with_suffix("").parts)

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Part of importlib's interface."""
        if name != self.name(self.mutant.path):
            return None
        return importlib.util.spec_from_file_location(name, ROOT / self.mutant.path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """The default module."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the changed code."""
        exec(compile(self.mutant.code, str(ROOT / self.mutant.path), "exec"), module.__dict__)  # noqa: S102


if __name__ == "__main__":
    main()
