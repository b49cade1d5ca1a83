"""The colours of every picture here, widgets and figures alike: Okabe and Ito's, told apart by all colour vision.

Colour is never the only mark: lines differ in dash or marker too, and shapes have an edge or a label.
"""

BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER = CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BLACK, GREY = "#1b1b1b", "#555555"
