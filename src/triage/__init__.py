"""Scores how suspicious a nodule looks."""
