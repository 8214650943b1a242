"""Text to token ids and back: word pieces, sentence segmentation, and the same ids as TensorFlow ops."""
