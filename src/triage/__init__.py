"""How suspicious a nodule looks to readers: the score, and the command that fits it to their ratings."""
