"""The private Python environment of the peers, .formwork/peers, made on first use."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".formwork" / "peers"
WANTED = ROOT / "bench" / "peers" / "requirements.txt"


def torch_version():
    """The one that the launcher fetches, so that both sides have the same libtorch."""
    return re.search(r"^torch_wanted=(\S+)", (ROOT / "scripts/prepare.sh").read_text(), re.M)[1]


def install(*arguments):
    """Runs pip in the environment; what it says goes to standard error, where progress belongs."""
    command = [FOLDER / "bin" / "python", "-m", "pip", "install", "--disable-pip-version-check",
               *arguments]
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        sys.exit(f"against-peers: pip could not install what bench/peers/requirements.txt lists into "
                 f"{FOLDER}: its words are above; valid: --python with a Python that has it")


def python():
    """The environment's Python; makes the environment or completes it where needed."""
    torch = f"torch=={torch_version()}"
    state, key = FOLDER / "complete", f"{torch}\n{WANTED.read_text()}"
    if state.exists() and state.read_text() == key:
        return FOLDER / "bin" / "python"
    print(f"against-peers: installing the peers into {FOLDER} (about 2 GB)", file=sys.stderr)
    if not (os.environ.get("FORMWORK_TORCH_PIP_ARGS") or os.environ.get("PIP_INDEX_URL")):
        print("against-peers: pip may choose a CUDA build of torch; for the CPU build set "
              "FORMWORK_TORCH_PIP_ARGS as CONTRIBUTING.md says", file=sys.stderr)
    if subprocess.run([sys.executable, "-m", "venv", FOLDER], stdout=sys.stderr,
                      check=False).returncode != 0:
        sys.exit("against-peers: python3 -m venv failed (above); on Debian the package python3-venv "
                 "is needed")
    # torch first, and then held: others would bring another one.
    install(*os.environ.get("FORMWORK_TORCH_PIP_ARGS", "").split(), torch)
    install("-r", WANTED, torch)
    state.write_text(key)
    return FOLDER / "bin" / "python"
