#!/usr/bin/env python3
"""Seeds each fault of faults.py into a copy of the tree and checks that a test notices it.

    python3 tests/mutants/run.py [--only NAME ...] [--build DIR] [--jobs N]

Writes tests/mutants/results.md (not with --only); the exit status is 1 unless all are caught. DIR
keeps what is known of the same sources: an interrupted call goes on where it stopped."""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

from faults import FAULTS

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
RESULTS = os.path.join(HERE, "results.md")
TEST_SECONDS = 300  # a test that is still running then has noticed, by hanging

# The folders that a test program is made of: a change there makes its results out of date.
BASE, MODEL = ["core/base", "kernels"], ["core/base", "kernels", "dist", "core/model"]
FOLDERS = {"dist": [*BASE, "dist"], "data": ["core/base", "data"], "kernels": BASE, "model": MODEL,
           "train": [*MODEL, "core/train", "data", "tests/data", "tests/golden"]}

CAUGHT, MISSED = "caught", "NOT CAUGHT"


def read(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, content):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def copy_tree(source):
    """Makes `source` equal to the tracked files; equal ones keep their time, so make skips them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    names = [name for name in listed.stdout.decode().split("\0")
             if name and os.path.exists(os.path.join(ROOT, name))]
    for name in names:
        content, copy = read(os.path.join(ROOT, name)), os.path.join(source, name)
        if not os.path.exists(copy) or read(copy) != content:
            write(copy, content)
    tracked = set(names)
    for folder, _, files in os.walk(source):
        for file in files:
            path = os.path.join(folder, file)
            if os.path.relpath(path, source) not in tracked:
                os.remove(path)


def fingerprint(source, fault):
    """Of the fault and of all that its test program is made of."""
    digest = hashlib.sha256(repr(fault).encode())
    for folder in [*FOLDERS[fault.program], "tests/" + fault.program]:
        for place, folders, files in os.walk(os.path.join(source, folder)):
            folders.sort()
            for file in sorted(files):
                path = os.path.join(place, file)
                digest.update(os.path.relpath(path, source).encode() + b"\0" + read(path))
    return digest.hexdigest()


def configure(work):
    if os.path.exists(os.path.join(work, "build", "Makefile")):
        return
    command = ["cmake", "-S", os.path.join(work, "source"), "-B", os.path.join(work, "build"),
               "-G", "Unix Makefiles", "-DCMAKE_BUILD_TYPE=Release", "-DT2R_BUILD_BENCHMARKS=OFF"]
    if shutil.which("ccache"):  # restored files need no second compilation
        command.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def build(work, program, jobs):
    """An empty text, or what the compiler said."""
    done = subprocess.run(["cmake", "--build", os.path.join(work, "build"), f"-j{jobs}",
                           "--target", "test_" + program], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-4000:]


def run_tests(work, program, tests):
    """(how many tests ran, the names of those that failed; empty when all passed)"""
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    process = subprocess.Popen([os.path.join(work, "build", "test_" + program),
                                "--gtest_filter=" + tests, "--gtest_color=no"],
                               env=environment, cwd=work, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace")
    ending = ""
    try:
        output, _ = process.communicate(timeout=TEST_SECONDS)
        if process.returncode < 0:
            ending = f"ended by {signal.Signals(-process.returncode).name}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        ending = "hung"
    started = re.findall(r"^\[ RUN      \] (\S+)", output, re.M)
    failed = list(dict.fromkeys(re.findall(r"^\[  FAILED  \] (\S+?),? .*\(\d+ ms\)", output, re.M)))
    if ending and started:  # the last one did not get to its own verdict
        failed.append(f"{started[-1]} ({ending})")
    elif process.returncode != 0 and not failed:
        failed.append(f"exit status {process.returncode}")
    return len(started), failed


def apply(source, fault):
    """The file's old content, or None (and nothing changed) when an edit does not apply."""
    path = os.path.join(source, fault.file)
    old = read(path)
    text = old.decode()
    for before, after in fault.edits:
        if text.count(before) != 1:
            return None
        text = text.replace(before, after)
    write(path, text.encode())
    return old


def try_fault(work, fault, jobs):
    """(outcome, the tests that failed or the reason)"""
    source = os.path.join(work, "source")
    old = apply(source, fault)
    if old is None:
        return "does not apply", ["the old text is not there exactly once"]
    try:
        errors = build(work, fault.program, jobs)
        if errors:
            print(errors, file=sys.stderr)
            return "does not build", []
        count, failed = run_tests(work, fault.program, fault.tests)
    finally:
        write(os.path.join(source, fault.file), old)
    if count == 0:
        return "no test", [fault.tests]
    return (CAUGHT, failed) if failed else (MISSED, [fault.tests])


def check_clean(work, program, filters, jobs):
    """Without a fault all the tests must pass, else their failing says nothing."""
    errors = build(work, program, jobs)
    if errors:
        sys.exit(f"run.py: test_{program} does not build without a fault:\n{errors}")
    for tests in filters:
        count, failed = run_tests(work, program, tests)
        if count == 0 or failed:
            sys.exit(f"run.py: without a fault, test_{program} {tests}: {count} tests ran, failed: "
                     f"{', '.join(failed) or 'none'}")


def write_table(known):
    caught = sum(known.get(fault.name, {}).get("outcome") == CAUGHT for fault in FAULTS)
    lines = ["# Seeded faults", "",
             "Written by `python3 tests/mutants/run.py`. Each fault is put into a copy of the tree "
             "alone; the tests named", "pass without it and have to fail with it.", "",
             f"{caught} of {len(FAULTS)} faults are caught.", "",
             "| fault | what is wrong | file | outcome | by |", "|---|---|---|---|---|"]
    for fault in FAULTS:
        result = known.get(fault.name, {"outcome": "not run", "tests": []})
        tests = [f"`{test}`" for test in result["tests"]]
        by = ", ".join(tests[:3]) + (f" and {len(tests) - 3} more" if len(tests) > 3 else "")
        lines.append(f"| {fault.name} | {fault.what} | `{fault.file}` | {result['outcome']} "
                     f"| {by} |")
    write(RESULTS, ("\n".join(lines) + "\n").encode())


def main():
    parser = argparse.ArgumentParser(description="Seeds faults and checks that tests notice them.")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults, run anew")
    parser.add_argument("--build", default=os.path.join(ROOT, "build-mutants"), metavar="DIR",
                        help="work folder (build-mutants in the checkout)")
    parser.add_argument("--jobs", type=int, default=2, help="parallel compilations (2)")
    options = parser.parse_args()
    unknown = set(options.only or []) - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(f"unknown faults: {', '.join(sorted(unknown))}")

    work = os.path.abspath(options.build)
    source, state = os.path.join(work, "source"), os.path.join(work, "results.json")
    copy_tree(source)
    prints = {fault.name: fingerprint(source, fault) for fault in FAULTS}
    stored = json.loads(read(state)) if os.path.exists(state) else {}
    known = {name: result for name, result in stored.items()
             if prints.get(name) == result["fingerprint"]}
    todo = [fault for fault in FAULTS
            if (fault.name in options.only if options.only
                else known.get(fault.name, {}).get("outcome") != CAUGHT)]
    if todo:
        configure(work)
    for program in dict.fromkeys(fault.program for fault in todo):
        mine = [fault for fault in todo if fault.program == program]
        check_clean(work, program, dict.fromkeys(fault.tests for fault in mine), options.jobs)
        for fault in mine:
            outcome, tests = try_fault(work, fault, options.jobs)
            known[fault.name] = {"outcome": outcome, "tests": tests,
                                 "fingerprint": prints[fault.name]}
            write(state, json.dumps(known, indent=1).encode())
            if not options.only:
                write_table(known)
            print(f"{fault.name}: {outcome}: {', '.join(tests)}", flush=True)

    if not options.only:
        write_table(known)
    missing = [fault.name for fault in FAULTS
               if known.get(fault.name, {}).get("outcome") != CAUGHT]
    if options.only:
        missing = [name for name in missing if name in options.only]
    if missing:
        print(f"not caught: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
