"""Restored scans as files: read back equal, in the same place, told as derived, and standing up to the DICOM standard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import made_files
import numpy as np
import pydicom
import pytest

from builder import scans
from builder.derived import WriteRefused, write
from builder.scan import Scan

MADE_BY = "run 20261126-041842-abcdef (dncnn)"
