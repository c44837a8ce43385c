"""Scenes of one to four objects under captions that name some of what they show, and an oracle that reads them back."""
