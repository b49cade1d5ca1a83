"""14.4"""

import re


def answer(card, fields):
    """The body is cut at its headings."""
    match = re.match(r"---\n(.*?)^---\n", card, re.DOTALL | re.MULTILINE)
    head, body = (match[1], card[match.end() :]) if match else ("", card)
    filled = re.findall(r"^(\w+):(?= *(?!\[\] *$)\S|\s*\n- )", head, re.MULTILINE)
    _, *parts = re.split(r"^#+ *(.*)$", body, flags=re.MULTILINE)
    sections = zip(parts[::2], parts[1::2], strict=True)
    needed = [heading.strip() for heading, text in sections if "[More Information Needed]" in text]
    return [field for field in fields if field not in filled] + needed
