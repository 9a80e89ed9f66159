"""The Inside tab: the chosen model block by block, and the claims of the papers, tried live."""
