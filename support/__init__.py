"""What the scripts import; nothing here imports a script."""
