"""How the networks are trained."""

MINIMUM_LEARNING_RATE = 0.00001
