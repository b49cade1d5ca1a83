"""How strong are the checks? Small mistakes made on purpose, each of which a check should reject.

    rules.py    what could stand in a node's place by mistake      mutants.py   a solution with one such change
    measure.py  each mutant judged in a process of its own         record.py    what came out, kept and told
"""
