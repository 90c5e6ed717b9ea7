"""The command line: `pyimplicit doctor | setup-julia | examples | run NAME [options]`."""

import argparse
import importlib.util
import sys
from pathlib import Path

from . import _config


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser("pyimplicit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what is installed, which engine runs, and why")
    setup = commands.add_parser(
        "setup-julia",
        help="install or register a Julia; the only command that downloads",
    )
    setup.add_argument("--executable", help="an existing Julia (with --project)")
    setup.add_argument("--project", help="a Julia project that has PythonCall")
    commands.add_parser("examples", help="list the examples")
    run = commands.add_parser("run", help="run an example", add_help=False)
    run.add_argument("name", help="as `pyimplicit examples` lists it")
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "run":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    try:
        return _run(args, rest)
    except (ValueError, OSError) as err:
        print(f"pyimplicit: {err}", file=sys.stderr)
        return 1


def _run(args, rest: list[str]) -> int:
    if args.command == "doctor":
        from .doctor import doctor

        return doctor()
    if args.command == "setup-julia":
        from .engine.julia.setup import setup_julia

        return setup_julia(args.executable, args.project)
    examples = _examples()
    if args.command == "examples":
        for name, file in examples.items():
            print(f"{name:24}{_summary(file)}")
        return 0
    if args.name not in examples:
        raise ValueError(
            f"`pyimplicit run NAME` must name an example.\nGot {args.name!r}.\n"
            f"There are: {', '.join(examples)}."
        )
    return int(_load(examples[args.name]).run(rest) or 0)


def _examples() -> dict[str, Path]:
    """Examples that can be run by name: those that define `run(argv)`."""
    folder = _config.companion("examples")
    return {
        file.stem.replace("_", "-"): file
        for file in sorted(folder.glob("*.py"))
        if "\ndef run(" in file.read_text()
    }


def _summary(file: Path) -> str:
    text = file.read_text().lstrip()
    return text.removeprefix('r"""').removeprefix('"""').split("\n", 1)[0].rstrip('"')


def _load(file: Path):
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # an example may import its neighbours
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"The example {file} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module
