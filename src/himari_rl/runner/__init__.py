"""Layer 2's stream of signals to journalled decisions: checked, asked, limited, written down, and only then told."""
