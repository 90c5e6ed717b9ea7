"""Settings, read once: environment first, then pyimplicit's own config file.

The file is `$PYIMPLICIT_CONFIG`, else `$XDG_CONFIG_HOME/pyimplicit/config.toml`, else
`~/.config/pyimplicit/config.toml`. `pyimplicit setup-julia` writes it.
"""

import dataclasses
import functools
import os
import tempfile
import tomllib
from pathlib import Path


ENGINES = ("auto", "julia", "host")


@dataclasses.dataclass(frozen=True)
class Config:
    """`engine`: "auto", "julia" or "host". `cache_bytes`: bound on the memory of kept
    sparse factors [bytes]. `julia_executable`, `julia_project`: where Julia is."""

    engine: str = "auto"
    cache_bytes: int = 2**30
    julia_executable: str | None = None
    julia_project: str | None = None


def path() -> Path:
    """The config file's place; it need not exist."""
    if given := os.environ.get("PYIMPLICIT_CONFIG"):
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "pyimplicit" / "config.toml"


@functools.cache
def config() -> Config:
    """The settings of this process."""
    julia = _read(path()).get("julia", {})
    return Config(
        engine=check_engine(os.environ.get("PYIMPLICIT_ENGINE", "auto"), "variable"),
        cache_bytes=_bytes(os.environ.get("PYIMPLICIT_CACHE_BYTES")),
        julia_executable=julia.get("executable"),
        julia_project=julia.get("project"),
    )


def check_engine(name: str, where: str = "argument") -> str:
    """Returns `name`, or raises with the list of engines."""
    if name not in ENGINES:
        what = "`PYIMPLICIT_ENGINE`" if where == "variable" else "`engine.use(name)`"
        raise ValueError(
            f"{what} must be one of {', '.join(map(repr, ENGINES))}.\n"
            f"Got {name!r}.\nUse 'auto' to take Julia where it is set up."
        )
    return name


def write_julia(executable: str, project: str) -> Path:
    """Writes the `[julia]` table of the config file, whole or not at all."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(
        f"{key} = '{value}'\n"
        for key, value in (("executable", executable), ("project", project))
    )
    with tempfile.NamedTemporaryFile(
        "w", dir=file.parent, delete=False, suffix=".toml"
    ) as f:
        f.write("# Written by `pyimplicit setup-julia`.\n[julia]\n" + text)
    os.replace(f.name, file)
    config.cache_clear()
    return file


def companion(name: str) -> Path:
    """The folder `name` ("julia" or "examples") that travels with the package: beside
    it in a checkout, `pyimplicit_<name>` in an installed wheel."""
    site = Path(__file__).resolve().parent.parent
    for folder in (site / f"pyimplicit_{name}", site / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"The folder of pyimplicit's {name} must lie beside the package.\n"
        f"Got nothing at {site / f'pyimplicit_{name}'} or {site / name}.\n"
        "Install pyimplicit again."
    )


def _read(file: Path) -> dict:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as err:
        raise ValueError(
            f"The config file must be readable TOML.\nGot {file}: {err}\n"
            "Mend or remove it; `pyimplicit setup-julia` writes a new one."
        ) from err


def _bytes(text: str | None) -> int:
    if text is None:
        return Config.cache_bytes
    if not text.isdecimal():
        raise ValueError(
            "`PYIMPLICIT_CACHE_BYTES` must be a number of bytes.\n"
            f"Got {text!r}.\nFor one gibibyte set it to {2**30}."
        )
    return int(text)
