"""A process that works on a study: python -m tests.experiments.search_worker STORAGE TRIALS [stuck].

`stuck` stops for good in the middle of its second trial.
"""

import sys
import time

from lora_course.experiments.search import open_study, search
from tests.experiments.test_benchmark import load, reviews
from tests.experiments.test_search import PLAN

storage, trials, *stuck = sys.argv[1:]
loads = 0


def slow_load():
    global loads
    loads += 1
    if loads == 3 and stuck:  # the first is for the tokenizer, the second for a trial that ends well
        print("stuck", flush=True)
        time.sleep(1000)
    time.sleep(0.1)
    return load()


study = open_study(storage, PLAN, heartbeat=1)
print("joined", flush=True)
search(study, int(trials), load=slow_load, splits=reviews(), poll=0.2, say=lambda line: print(line, flush=True))
