"""`pyimplicit setup-julia`: the one place that resolves, downloads and precompiles."""

import os
import subprocess
import sys
from pathlib import Path

from ..._config import companion, path as config_path, write_julia
from .start import JuliaUnavailable


# Run in the given project. `develop` is needed once; it does not go online when all that
# the package needs is there.
_ADD = """
import Pkg
path = ARGS[1]
info = [d for d in values(Pkg.dependencies()) if d.name == "ImplicitAdjoints"]
if isempty(info) || info[1].source === nothing ||
        !isdir(info[1].source) || realpath(info[1].source) != realpath(path)
    Pkg.develop(; path)
end
Pkg.precompile()
any(d -> d.name == "PythonCall", values(Pkg.dependencies())) || error(
    "the project has no PythonCall; add the version that matches juliacall")
using ImplicitAdjoints
println("Julia ", VERSION, ", ImplicitAdjoints ", pkgversion(ImplicitAdjoints))
"""


def setup_julia(executable: str | None = None, project: str | None = None) -> int:
    """Makes a Julia ready and remembers it in the config file.

    With `executable` and `project`: these are used as they are; the Julia half of
    pyimplicit is added to the project. Without: juliapkg finds or downloads a Julia and
    resolves an environment for it.
    """
    if (executable is None) != (project is None):
        raise ValueError(
            "`--executable` and `--project` go together.\n"
            f"Got executable {executable!r} and project {project!r}.\n"
            "Pass both, or none to let juliapkg find or download a Julia."
        )
    if executable is None or project is None:
        executable, project = _resolve()
    executable, project = (
        str(Path(executable).absolute()),
        str(Path(project).absolute()),
    )
    if not Path(executable).is_file():
        raise ValueError(
            f"`--executable` must be a Julia program.\nGot {executable}.\n"
            "Pass the path of `julia` itself."
        )
    if not Path(project).is_dir():
        raise ValueError(
            f"`--project` must be a folder with a Project.toml.\nGot {project}.\n"
            "Make one with `julia --project=DIR -e 'using Pkg; Pkg.add(\"PythonCall\")'`."
        )
    print(f"Preparing {project} with {executable} …", flush=True)
    command = [
        executable,
        f"--project={project}",
        "--startup-file=no",
        "-e",
        _ADD,
        str(companion("julia")),
    ]
    # PythonCall must see this Python while it is precompiled.
    environment = os.environ | {
        "JULIA_PYTHONCALL_EXE": sys.executable,
        "JULIA_CONDAPKG_BACKEND": "Null",
    }
    done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        raise ValueError(
            "The project could not be prepared (see Julia's message above).\n"
            f"Got exit status {done.returncode}.\nNothing was written."
        )
    file = write_julia(executable, project)
    print(f"Wrote {file}. Now try `pyimplicit doctor`.")
    return 0


def _resolve() -> tuple[str, str]:
    print("Finding or downloading Julia and its packages (minutes) …", flush=True)
    try:
        import juliapkg

        juliapkg.resolve()
        return str(juliapkg.executable()), str(juliapkg.project())
    except Exception as err:
        raise JuliaUnavailable(
            f"juliapkg must be able to set up a Julia.\nGot: {err}\n"
            "Without a network, pass --executable and --project; "
            f"{config_path()} was left as it was."
        ) from err
