"""The engine: experts of a mixture-of-experts model on many hosts, its trunk on one of them."""
