"""python -m builder.service DATA_FOLDER RUN: see `process`."""

import os
import sys

from builder.service.process import main

code = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # all is tidied up; to unload torch takes a second that somebody would wait for
