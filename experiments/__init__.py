"""The experiments behind the book's figures and numbers: python -m experiments lists them."""
