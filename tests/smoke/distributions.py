"""The wheel and the sdist in a folder hold every file of the package.

python tests/smoke/distributions.py dist
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
KINDS = {".py", ".c", ".h", ".yaml", ".txt", ".j2", ".css", ".js", ".html"}
"""Endings that the package is known to hold: recipes, C sources, templates, the playground."""
SDIST_ONLY = ("tests/conftest.py", "docs/recipe.md", "requirements/run.txt", "LICENSE", "README.md")


def package_files() -> set[str]:
    files = (path for path in SOURCE.rglob("*") if path.is_file())
    return {
        path.relative_to(SOURCE).as_posix()
        for path in files
        if "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def problems(folder: Path) -> list[str]:
    """What is wrong with the one wheel and the one sdist in the folder."""
    wheels, sdists = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        return [f"{folder} holds {len(wheels)} wheels and {len(sdists)} sdists; one of each"]
    with zipfile.ZipFile(wheels[0]) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdists[0]) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    expected = package_files()
    found = [f"the wheel lacks {name}" for name in sorted(expected - in_wheel)]
    found += [f"the wheel should not hold {name}" for name in sorted(in_wheel - expected)]
    suffixes = {Path(name).suffix for name in in_wheel}
    found += [f"the wheel holds no *{suffix}" for suffix in sorted(KINDS - suffixes)]
    wanted = {*(f"src/{name}" for name in expected), *SDIST_ONLY}
    found += [f"the sdist lacks {name}" for name in sorted(wanted - in_sdist)]
    return found


def main() -> None:
    messages = problems(Path(sys.argv[1]))
    if messages:
        sys.exit("\n".join(messages))
    print(f"The wheel and the sdist in {sys.argv[1]} hold all {len(package_files())} files.")


if __name__ == "__main__":
    main()
