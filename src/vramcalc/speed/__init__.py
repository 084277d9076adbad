"""From a placement to tokens per second: roofline over every device, with rates fitted to published runs."""

from vramcalc.speed.predicting import Rate, Speed, predict_speed
from vramcalc.speed.run import Run
from vramcalc.speed.terms import Term

__all__ = ["Rate", "Run", "Speed", "Term", "predict_speed"]
