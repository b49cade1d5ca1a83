"""`python -m lora_course` is `lora-course`."""

import sys

from lora_course.cli import main

sys.exit(main())
