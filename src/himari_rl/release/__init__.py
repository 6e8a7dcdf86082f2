"""May it size money: the gate and its rules, promotion, decision, the run card. No torch."""
