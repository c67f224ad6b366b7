"""What is made of the one judgement for programs and people to read elsewhere: metrics."""
