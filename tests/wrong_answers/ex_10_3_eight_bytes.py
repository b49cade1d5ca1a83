"""10.3
each byte would take eight
"""

def answer(scaled, table):
    index = (scaled.unsqueeze(1) - table).abs().argmin(dim=1)
    return index[::2] * 16 + index[1::2]
