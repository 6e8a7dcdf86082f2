"""What trains in order to judge: folds, walk-forward, controls, power, held-out verdicts, tuning."""
