"""Text classification: corpora, windows, training, vocabulary, calibration."""
