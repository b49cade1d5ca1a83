"""From notebooks that learners hand in to a table that an instructor can trust.

    submission   read a notebook that may be anything at all, and take out its exercise cells
    assignment   the lesson's side: what runs before each exercise, from the source and never from the learner
    screen       what an answer may not name                integrity   did an answer touch what judges it?
    runner       a process that forks a child for each answer, under limits;  sandbox  what that child may reach
    grade        a folder of submissions, in parallel, resumable;             report   CSV, JUnit XML, HTML
What this does and does not prevent is said in GRADING.md.
"""
