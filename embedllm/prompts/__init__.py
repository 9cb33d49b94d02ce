"""Text to token ids: templates, sentence clean-up and the one tokenize function."""
