"""Running the notebooks: short in a test, in full with ``make notebooks``, which stores their outputs.

Run: python tests/run_notebooks.py [NAME …]
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
"""All that a stored notebook says of what ran it: no versions, no times."""
LONGEST_CELL_S = 1_800


def execute(path: Path, *, short: bool) -> Any:
    """The notebook with the outputs of a new run in a kernel of its own; the file stays as it is.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=LONGEST_CELL_S,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    # whoever runs the tests without installing the project has it on the path; so has the kernel
    found = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    client.execute(env={**os.environ, "HOOKLAB_SHORT": "1" if short else "0", "PYTHONPATH": found})
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main(names: list[str]) -> None:
    """Run the notebooks (of these names; default: all) in full and store their outputs."""
    known = {each for path in NOTEBOOKS for each in (path.name, path.stem)}
    if unknown := set(names) - known:
        raise SystemExit(
            f"no notebook is called {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    for path in NOTEBOOKS:
        if not names or path.name in names or path.stem in names:
            begun = time.perf_counter()
            notebook = execute(path, short=False)
            nbformat.write(notebook, path)
            print(f"{path.name}: {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
