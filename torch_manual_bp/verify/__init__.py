"""Does it compute right on this device? Every op, Function and step against float64, and what only CUDA can show."""

from .checks import CHECKS, OPS, run_check
from .finding import Finding
from .measurements import Measured, measure
from .sanitizer import Sanitized, find_sanitizer, sanitize
from .session import CHECK_COLUMNS, GOAL_COLUMNS, Session, check_rows, device_name, goal_rows, name_of
from .setting import Setting
from .supervisor import Checked, supervise

__all__ = [
    "CHECKS",
    "CHECK_COLUMNS",
    "GOAL_COLUMNS",
    "OPS",
    "Checked",
    "Finding",
    "Measured",
    "Sanitized",
    "Session",
    "Setting",
    "check_rows",
    "device_name",
    "find_sanitizer",
    "goal_rows",
    "measure",
    "name_of",
    "run_check",
    "sanitize",
    "supervise",
]
