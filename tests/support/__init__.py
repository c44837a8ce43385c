"""What tests share: oracles, draws, small networks, marks."""
