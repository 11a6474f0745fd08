"""Embeddings whose distances mean something: retrieval, verification, few-shot classes and regression."""
