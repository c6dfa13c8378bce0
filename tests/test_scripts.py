"""The scripts' own logic, with a stand-in for Python that writes down what it is asked to do.

Whether the real thing installs and trains is seen by running it: the suite itself runs in what scripts/test.sh made.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]
TOOLS = ["bash", "cat", "cksum", "dirname", "env", "find", "flock", "mkdir", "rm", "sh", "sort", "tail", "touch"]

FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) exit {too_old} ;;
  *ensurepip*) exit {no_venv} ;;
  --version) echo "Python 3.99" ;;
  "-m venv "*) mkdir -p "$3/bin"; cat "$0" >"$3/bin/python"; chmod +x "$3/bin/python" ;;
  *) echo "$* CXX=$CXX" >>"$LOG"; [ ! -e "$LOG.fail" ] || {{ echo "no route to host"; exit 1; }} ;;
esac
"""

pytestmark = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason=f"needs {', '.join(TOOLS)}")


def write_executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Project:
    """A copy of the scripts beside files of no content, and a PATH with the basic tools and what a test puts there."""

    def __init__(self, folder):
        self.root, self.bin, self.log = folder / "the project", folder / "bin", folder / "log"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        for name in ("requirements/torch.txt", "requirements/train.txt", "requirements/dev.txt", "setup.py"):
            (self.root / name).parent.mkdir(exist_ok=True)
            (self.root / name).write_text(name)
        for name in ("pyproject.toml", "csrc/cpu/a.cpp"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(name)
        self.bin.mkdir()
        for tool in (*TOOLS, "chmod"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def add_python(self, name="python3", too_old=0, no_venv=0):
        write_executable(self.bin / name, FAKE_PYTHON.format(too_old=too_old, no_venv=no_venv))

    def add_compiler(self, name="c++"):
        write_executable(self.bin / name, "#!/bin/sh\n")

    def run(self, script="demo.sh", *arguments, **environment):
        self.log.write_text("")
        command = ["bash", str(self.root / "scripts" / script), *arguments]
        variables = {"PATH": str(self.bin), "LOG": str(self.log), **environment}
        return subprocess.run(command, env=variables, cwd=self.bin, capture_output=True, text=True)

    @property
    def asked(self):
        """What Python was asked for, shortened: pins by their file's name, "build", and the job itself."""
        lines = []
        for line in self.log.read_text().splitlines():
            pins = re.search(r"requirements/(\w+)\.txt", line)
            lines.append(pins[1] if pins else "build" if " -e " in line else line.removesuffix(" CXX="))
        return lines


@pytest.fixture
def project(tmp_path):
    made = Project(tmp_path)
    made.add_python()
    made.add_compiler()
    return made


DEMO = "-m torch_manual_bp train"
TEST = "-m pytest -n 2"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_well_formed_and_executable(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert script.name.startswith("_") or script.stat().st_mode & 0o111


def test_shellcheck_finds_nothing():
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    command = [shellcheck, "-x", "-P", str(ROOT / "scripts"), *map(str, SCRIPTS)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def test_the_first_run_does_everything_and_the_second_only_the_job(project):
    assert project.run().returncode == 0
    assert project.asked == ["torch", "train", "build", DEMO]
    second = project.run("demo.sh", "my data.csv", "--label", "the label")
    assert project.asked == [f"{DEMO} my data.csv --label the label"]
    assert second.stderr == ""


def test_both_scripts_share_one_environment(project):
    project.run("demo.sh")
    project.run("test.sh", "-k", "cli")
    assert project.asked == ["torch", "dev", f"{TEST} -k cli"]
    project.run("demo.sh")
    assert project.asked == [DEMO]


def test_what_measures_time_runs_by_itself_at_the_end(project):
    project.run("test.sh")
    assert project.asked[-2:] == [f"{TEST} -m not alone", "-m pytest -m alone"]


def test_after_the_tests_the_demo_installs_nothing(project):
    project.run("test.sh")
    project.run("demo.sh")
    assert project.asked == [DEMO]


@pytest.mark.parametrize(
    ("changed", "redone"),
    [
        ("requirements/train.txt", ["torch", "train"]),
        ("requirements/torch.txt", ["torch", "train", "build"]),
        ("requirements/dev.txt", []),
        ("csrc/cpu/a.cpp", ["build"]),
        ("csrc/cpu/b.cpp", ["build"]),
        ("setup.py", ["build"]),
        ("pyproject.toml", ["build"]),
    ],
)
def test_a_change_redoes_what_depends_on_it(project, changed, redone):
    project.run()
    (project.root / changed).write_text("changed")
    project.run()
    assert project.asked == [*redone, DEMO]


def test_without_a_compiler_it_goes_on_and_says_so_once(project):
    (project.bin / "c++").unlink()
    first = project.run()
    assert first.returncode == 0
    assert project.asked == ["torch", "train", "build", DEMO]
    assert first.stderr.count("No C++ compiler found") == 1
    assert project.run().stderr == ""


def test_a_compiler_that_comes_later_is_used(project):
    (project.bin / "c++").unlink()
    project.run()
    project.add_compiler("clang++")
    project.run()
    assert project.asked == ["build", DEMO]
    assert project.log.read_text().splitlines()[0].endswith("CXX=clang++")


def test_the_users_choice_of_a_compiler_goes_first(project):
    project.add_compiler("my-c++")
    project.run(CXX="my-c++")
    assert project.log.read_text().splitlines()[2].endswith("CXX=my-c++")


def test_a_failed_installation_says_why_and_is_tried_again(project):
    (project.log.parent / "log.fail").touch()
    failed = project.run()
    assert failed.returncode == 1
    assert "pip could not install the pinned dependencies (is this machine online?)" in failed.stderr
    assert "no route to host" in failed.stderr
    assert project.asked == ["torch"]
    (project.log.parent / "log.fail").unlink()
    assert project.run().returncode == 0
    assert project.asked == ["torch", "train", "build", DEMO]


def test_the_first_python_that_will_do_is_taken(project):
    project.add_python("python3", too_old=1)
    project.add_python("python3.12", no_venv=1)
    project.add_python("python3.11")
    assert project.run().returncode == 0


MISSING = {
    "no Python": ({}, "missing Python 3.10 or later"),
    "an old one": ({"python3": {"too_old": 1}}, "missing Python 3.10 or later"),
    "no venv": (
        {"python3": {"no_venv": 1}},
        "missing python3's venv module (Debian, Ubuntu: apt install python3-venv)",
    ),
    "no venv, and an old one": ({"python3": {"no_venv": 1}, "python": {"too_old": 1}}, "missing python3's venv module"),
}


@pytest.mark.parametrize(("pythons", "message"), MISSING.values(), ids=MISSING)
def test_what_is_missing_is_said(project, pythons, message):
    (project.bin / "python3").unlink()
    for name, faults in pythons.items():
        project.add_python(name, **faults)
    failed = project.run()
    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert message in line
    assert not (project.root / ".venv").exists()


def test_the_python_that_is_asked_for_is_taken_or_refused(project):
    (project.bin / "python3").unlink()
    project.add_python("snake")
    project.add_python("old-snake", too_old=1)
    refused = project.run(PYTHON="old-snake")
    assert "PYTHON=old-snake will not do: missing Python 3.10 or later" in refused.stderr
    assert project.run(PYTHON="snake").returncode == 0


def test_somebody_elses_environment_is_left_alone(project):
    (project.root / ".venv").mkdir()
    (project.root / ".venv" / "precious").touch()
    refused = project.run()
    assert refused.returncode == 1
    assert "was not made by this script" in refused.stderr
    assert (project.root / ".venv" / "precious").exists()


def test_another_place_can_be_chosen(project, tmp_path):
    assert project.run(TMB_VENV=str(tmp_path / "other place")).returncode == 0
    assert (tmp_path / "other place" / "bin" / "python").exists()
    assert not (project.root / ".venv").exists()


def test_a_broken_environment_is_made_anew(project):
    project.run()
    (project.root / ".venv" / "bin" / "python").unlink()
    assert project.run().returncode == 0
    assert project.asked == ["torch", "train", "build", DEMO]


def test_the_tests_exit_status_is_the_scripts(project):
    project.run("test.sh")
    (project.log.parent / "log.fail").touch()
    assert project.run("test.sh").returncode == 1


def test_every_range_in_pyproject_is_pinned():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {"train": project["optional-dependencies"]["train"], "dev": project["optional-dependencies"]["dev"]}
    for group, ranges in wanted.items():
        pins = (ROOT / "requirements" / f"{group}.txt").read_text()
        pinned = {re.split("==", line)[0] for line in pins.splitlines() if "==" in line}
        names = {re.split(r"[\[<>=!~; ]", item)[0].lower() for item in [*ranges, *project["dependencies"]]}
        assert names - {"torch", "torch_manual_bp"} <= pinned, group


def test_dev_holds_train_at_the_same_versions():
    train, dev = (set((ROOT / "requirements" / f"{group}.txt").read_text().splitlines()) for group in ("train", "dev"))
    assert train <= dev
