"""What is written to disk: runs that resume, and files replaced as a whole."""

from keras_tilt.storage.files import (
    locked,
    replace,
    replace_path,
    save_model,
    write_table,
)
from keras_tilt.storage.loop import Checkpoints, iterate
from keras_tilt.storage.run_folder import (
    Record,
    Run,
    check_holds_only,
    fingerprint,
    parts_within,
    under,
    within,
)

__all__ = [
    "Checkpoints",
    "Record",
    "Run",
    "check_holds_only",
    "fingerprint",
    "iterate",
    "locked",
    "parts_within",
    "replace",
    "replace_path",
    "save_model",
    "under",
    "within",
    "write_table",
]
