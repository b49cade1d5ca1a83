"""14.4
a line of the text is not metadata
"""

import re


def answer(card, fields):
    missing = [field for field in fields if not re.search(rf"^{field}:( *[^\s\[]|\n- )", card, re.MULTILINE)]
    heading = None
    for line in card.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif "[More Information Needed]" in line and heading and heading not in missing:
            missing.append(heading)
    return missing
