"""Training of the networks."""

MINIMUM_LEARNING_RATE = 0.00001
