"""Tasks make methods comparable: same data, backbone, budget and scores for all, and a baseline to measure against."""
