"""How suspicious a nodule looks."""
