"""Tables as people have them: read into columns, checked column by column, and new rows likewise."""

from semiflat.tables.columns import (
    MOST_LEVELS,
    Column,
    Sheet,
    check_usable,
    column_of_numbers,
    encoded,
    listed,
    target_missing,
    target_values,
)
from semiflat.tables.files import SUFFIXES, read_file
from semiflat.tables.frames import FRAME, is_frame, sheet_of_frame
from semiflat.tables.rows import frame_as_inputs, inputs_of

__all__ = [
    "FRAME",
    "MOST_LEVELS",
    "SUFFIXES",
    "Column",
    "Sheet",
    "check_usable",
    "column_of_numbers",
    "encoded",
    "frame_as_inputs",
    "inputs_of",
    "is_frame",
    "listed",
    "read_file",
    "sheet_of_frame",
    "target_missing",
    "target_values",
]
