"""A training's own copy of its pictures: those that the form keeps, with its captions and what is stated of rights.

Needs Pillow and numpy, which the command line must not before the environment is made: imported where it is called.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from .. import atomic
from ..rights import scanning
from ..rights.store import Store
from .forms import JobForm


def copy_pictures(form: JobForm, target: Path, data_dir: Path) -> None:
    """Put the form's pictures and captions into ``target``.

    They are second names of the same files where the disk allows it, so that 5 000 pictures cost nothing, else copies;
    what is stated of their rights comes with them, also where the folder could not be written to and only the store in
    ``data_dir`` knows. Raises OSError, RightsError.
    """
    target.mkdir()
    if form.pictures is None:
        return
    with os.scandir(form.pictures) as entries:
        files = [Path(entry.path) for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    for file in files:
        if file.name in form.left_out:
            continue
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copy2(file, target / file.name)
    for name, caption in form.captions.items():
        if (target / name).is_file():
            written = (target / name).with_suffix(".txt")
            # A second name of the person's own file must not be written through.
            with contextlib.suppress(FileNotFoundError):
                written.unlink()
            atomic.write_text(written, caption.strip() + "\n")
    store = Store(data_dir)
    if store.path.is_file():
        ledger = scanning.open_ledger(form.pictures, store)
        if ledger is not None and ledger.events:
            ledger.write(target)
