"""What there is: methods, claims, their arguments and the fingerprint of their code; nothing here imports torch."""
