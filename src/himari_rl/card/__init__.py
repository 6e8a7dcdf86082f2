"""What a quant wants to see of a policy: figures as everybody defines them, drawn on one page that works offline."""
