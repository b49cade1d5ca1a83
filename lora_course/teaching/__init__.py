"""What turns notebooks into lessons: exercises that check themselves, progress, and the tools that build the notebooks.

A notebook needs two of these modules: `exercises` (the function `check`) and `profiles` (how big a run may be).
A check needs `exercises` (the decorator) and `compare` (what to say about a wrong answer).
An author needs `authoring` (notebooks from sources) and the gates in `gates` and `answers`, which the tests run.
Pictures to play with are in `widgets`, whose docstring says how a lesson takes one in.
Nothing outside this folder, the command line, the notebooks and the tests imports any of it.
"""

import logging

# PEFT imports bitsandbytes where it is installed, and that logs which kernels it would like to have: noise in a lesson.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
